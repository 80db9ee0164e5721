#!/usr/bin/python3
"""Builds the core with one rule taken out, for each *.patch beside this file, and says which seed catches it.

run.py [--build DIR] [--seeds N] [NAME...]    DIR is a build that has tests/sim/tb4-sim (default: build)

Prints a table: mutant, the seed that caught it, how many seeds that took, what was seen. Exit status 1 if one was not
caught within N seeds, or a patch does not apply any more.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
top = here.parents[2]


def compile_command(build, source):
    """The command that the build uses for this file, without its -o and -c."""
    for entry in json.loads((build / 'compile_commands.json').read_text()):
        if pathlib.Path(entry['file']).name == source and '/core/' in entry['file']:
            return re.sub(r' -M[DQF]+( \S+\.o(\.d)?)?| -o \S+| -c \S+', '', entry['command']).split()
    raise SystemExit(f'{source}: not in the build')


def make(build, patch, directory):
    """The simulator with the patched core; None if the patch does not apply."""
    shutil.copytree(top / 'upstairs-client', directory / 'upstairs-client')
    if subprocess.run(['patch', '-p1', '-s', '-f', '-i', patch], cwd=directory, stdout=subprocess.DEVNULL).returncode:
        return None
    objects = []
    for name in re.findall(r'^\+\+\+ b/(\S+\.c)', patch.read_text(), re.M):
        source = directory / name
        objects.append(str(directory / (source.stem + '.o')))
        subprocess.run([*compile_command(build, source.name), f'-I{directory}/upstairs-client', '-w', '-Wno-error',
                        '-c', str(source), '-o', objects[-1]], cwd=build, check=True)
    rest = sorted(str(path) for path in (build / 'tests/sim/tb4-sim.p').glob('*.o'))
    program = directory / 'tb4-sim'
    subprocess.run(['cc', '-o', str(program), *rest, *objects,
                    str(build / 'tests/downstairs/libdownstairs-engine.a'),
                    str(build / 'upstairs-client/libupstairs.a'), '-luv', '-lxxhash', '-lgcrypt'], cwd=build, check=True)
    return program


def hunt(program, first, seeds):
    """(seed, what was seen) or None."""
    done = subprocess.run([program, '--seeds', str(first), str(seeds)], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, errors='replace')
    if done.returncode == 0:
        return None
    seed = re.search(r'--seed (\d+)', done.stdout)
    seen = re.search(r'^violation: (.*)', done.stdout, re.M)
    return (int(seed[1]) if seed else None, seen[1] if seen else f'ends with status {done.returncode}')


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--build', type=pathlib.Path, default=top / 'build')
    options.add_argument('--first', type=int, default=1)
    options.add_argument('--seeds', type=int, default=100000)
    options.add_argument('names', nargs='*')
    options = options.parse_args()
    missed = 0
    for patch in sorted(here.glob('*.patch')):
        name = patch.stem
        if options.names and name not in options.names:
            continue
        with tempfile.TemporaryDirectory(prefix='tb4-mutant-') as directory:
            program = make(options.build.resolve(), patch, pathlib.Path(directory))
            caught = program and hunt(program, options.first, options.seeds)
        if caught:
            took = caught[0] - options.first + 1 if caught[0] is not None else '?'
            print(f'{name:40} seed {caught[0]} ({took} seeds): {caught[1]}', flush=True)
        else:
            missed += 1
            print(f'{name:40} ' + ('NOT CAUGHT' if program else 'DOES NOT APPLY'), flush=True)
    sys.exit(missed > 0)


main()
