#!/usr/bin/python3
"""Builds the core with one rule taken out, for each *.patch beside this file, and says which seed catches it.

run.py [--build DIR] [--first SEED] [--seeds N] [NAME...]   DIR is a build that has tests/sim/tb4-sim (default: build)
run.py [--build DIR] --trace TRACE NAME...                  only whether this trace fails with each of them

Prints a table: mutant, the traces that fail with it, how many seeds from SEED on it took to catch it, what was seen.
Exit status 1 if one was not caught within N seeds, or a patch does not apply any more.
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
    try:
        done = subprocess.run([program, '--seeds', str(first), str(seeds)], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, errors='replace', timeout=3600)
    except subprocess.TimeoutExpired:
        return (None, 'does not end')
    if done.returncode == 0:
        return None
    seed = re.search(r'--seed (\d+)', done.stdout)
    seen = re.search(r'^violation: (.*)', done.stdout, re.M)
    return (int(seed[1]) if seed else None, seen[1] if seen else f'ends with status {done.returncode}')


def failing_traces(program):
    names = subprocess.run([program, '--traces'], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return [name for name in names if fails(program, name)]


def fails(program, trace):
    try:
        return subprocess.run([program, '--trace', trace], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=60).returncode != 0
    except subprocess.TimeoutExpired:
        return True


def main():
    options = argparse.ArgumentParser()
    options.add_argument('--build', type=pathlib.Path, default=top / 'build')
    options.add_argument('--first', type=int, default=1)
    options.add_argument('--seeds', type=int, default=100000)
    options.add_argument('--trace')
    options.add_argument('names', nargs='*')
    options = options.parse_args()
    missed = 0
    for patch in sorted(here.glob('*.patch')):
        name = patch.stem
        if options.names and name not in options.names:
            continue
        with tempfile.TemporaryDirectory(prefix='tb4-mutant-') as directory:
            program = make(options.build.resolve(), patch, pathlib.Path(directory))
            if program and options.trace:
                is_caught = fails(program, options.trace)
                print(f'{name}: trace {options.trace} ' + ('fails' if is_caught else 'DOES NOT FAIL'), flush=True)
                missed += not is_caught
                continue
            caught = program and hunt(program, options.first, options.seeds)
            traces = ' '.join(failing_traces(program)) if program else ''
        if caught:
            took = caught[0] - options.first + 1 if caught[0] is not None else '?'
            print(f'| {name} | {traces} | {took} | {caught[1]} |', flush=True)
        else:
            missed += 1
            print(f'| {name} | {traces} | ' + ('not caught' if program else 'does not apply') + ' | |', flush=True)
    sys.exit(missed > 0)


main()
