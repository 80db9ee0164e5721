"""A small authority and the certificates of three downstairs and their client."""
from .node import run


def make_certificate(directory, name, authority, host=None):
    """`name`.pem and `name`.key, in the form that upstream's downstairs reads."""
    key, request, extensions = (directory / f"{name}.{suffix}" for suffix in ("key", "csr", "ext"))
    run("openssl", "genrsa", "-traditional", "-out", key, "2048")
    run("openssl", "req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
    extensions.write_text(f"subjectAltName=DNS:{host or name}\n")
    run("openssl", "x509", "-req", "-in", request, "-CA", authority.with_suffix(".pem"), "-CAkey",
        authority.with_suffix(".key"), "-CAcreateserial", "-days", "30", "-extfile", extensions, "-out",
        directory / f"{name}.pem")


def make_authority(directory, name):
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", directory / f"{name}.key", "-out",
        directory / f"{name}.pem", "-days", "30", "-subj", f"/CN={name}")
    return directory / name


def make_certificates(directory):
    """authority, upstairs, downstairs0 to downstairs2, and an intruder whom another authority vouches for."""
    authority, stranger = make_authority(directory, "authority"), make_authority(directory, "stranger")
    for name in ("downstairs0", "downstairs1", "downstairs2", "upstairs"):
        make_certificate(directory, name, authority)
    make_certificate(directory, "intruder", stranger, "downstairs0")


def files(directory, name, authority="authority"):
    """As options of both downstairs and of upstairs-io."""
    return ["--root-cert-pem", str(directory / f"{authority}.pem"), "--cert-pem", str(directory / f"{name}.pem"),
            "--key-pem", str(directory / f"{name}.key")]
