"""Starts two servers and runs scenarios between them. tests/interop/run calls this."""

import argparse
import asyncio
import pathlib
import random
import shutil
import signal
import socket
import sys
import time
import traceback

import aiohttp

import servers
import scenarios  # noqa: F401  (registers them)
from certificates import Authority
from client import NotSeen, Refused
from harness import SCENARIOS, Failed, Scene


def arguments():
    parser = argparse.ArgumentParser(prog="tests/interop/run", description="Runs scenarios between two servers.")
    parser.add_argument("-k", metavar="TEXT", default="", help="only scenarios with this in their names")
    parser.add_argument("-v", metavar="VERSION", help="only rooms of this version")
    parser.add_argument("-j", metavar="N", type=int, default=6, help="the number of scenarios that run at the same time (%(default)s)")
    parser.add_argument("--repeat", metavar="N", type=int, default=1, help="the number of times that each scenario runs")
    parser.add_argument("--full", action="store_true", help="outages with 2,000 events in 20 rooms")
    parser.add_argument("--no-outages", action="store_true", help="no scenarios that stop servers")
    parser.add_argument("--list", action="store_true", help="list the scenarios, and run none")
    kinds = list(servers.KINDS)
    for option, default in (("--first", "parlour"), ("--second", "synapse")):
        parser.add_argument(option, choices=kinds, default=default, help="(%(default)s)")
    # The script tests/interop/run sets these.
    parser.add_argument("--parlour", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def free_addresses():
    """Returns two loopback addresses with free ports, so that several runs at the same time do not collide."""
    while True:
        network = f"127.{random.randint(16, 250)}.{random.randint(1, 250)}"
        addresses = [f"{network}.{host}" for host in (1, 2)]
        if all(_is_free(address) for address in addresses):
            return addresses


def _is_free(address):
    for port in (servers.FEDERATION_PORT, servers.CLIENT_PORT):
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return False
    return True


def scenes(scenario, pair, options):
    """Yields the scenes in which a scenario runs: both directions, and each version of rooms."""
    directions = [pair, pair[::-1]] if pair[0].kind != pair[1].kind else [pair]
    for near, far in directions:
        for version in scenario.versions:
            if options.v in (None, version) or version is None:
                yield Scene(near, far, version, options.full)


class Report:
    """Prints the result of each scenario, and counts the results."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    async def play(self, scenario, scene):
        began = time.monotonic()
        try:
            await scenario.play(scene)
            problem = None
            self.passed += 1
        except (Failed, NotSeen, Refused, aiohttp.ClientError) as error:
            problem = f"{type(error).__name__}: {error}"
            self.failed += 1
        except Exception:
            problem = traceback.format_exc()
            self.failed += 1
        self._print_result(scenario, scene, time.monotonic() - began, problem)

    def _print_result(self, scenario, scene, seconds, problem):
        result = "failed" if problem else "passed"
        version = f"v{scene.version}" if scene.version else "   "
        direction = f"{scene.near}→{scene.far}"
        print(f"{result}  {direction:16}  {version:3}  {scenario.name:32} {seconds:5.1f} s", flush=True)
        if problem:
            print("        " + problem.strip().replace("\n", "\n        "), flush=True)


async def play_all(pair, options):
    """Runs the chosen scenarios: several at the same time, and then those that stop servers, one by one."""
    report = Report()
    chosen = [scenario for scenario in SCENARIOS if options.k in scenario.name] * options.repeat
    permits = asyncio.Semaphore(options.j)

    async def play_with_permit(scenario, scene):
        async with permits:
            await report.play(scenario, scene)

    concurrent = [
        (scenario, scene)
        for scenario in chosen
        if not scenario.runs_alone
        for scene in scenes(scenario, pair, options)
    ]
    await asyncio.gather(*(play_with_permit(scenario, scene) for scenario, scene in concurrent))
    if not options.no_outages:
        for scenario in (scenario for scenario in chosen if scenario.runs_alone):
            for scene in scenes(scenario, pair, options):
                await asyncio.gather(*(server.runs() for server in pair))
                await report.play(scenario, scene)
    return report


async def run(options):
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    folder = options.folder.resolve()
    servers.Parlour.binary = options.parlour.resolve()
    servers.Synapse.python = sys.executable
    authority = Authority(folder)
    names = [options.first, options.second]
    if options.first == options.second:
        names[1] += "-2"
    pair = [
        servers.KINDS[kind](folder / name, address, authority)
        for kind, name, address in zip((options.first, options.second), names, free_addresses())
    ]
    try:
        await asyncio.gather(*(server.start() for server in pair))
        report = await play_all(pair, options)
    finally:
        await asyncio.gather(*(server.stop() for server in pair))
    print(f"{report.passed} passed, {report.failed} failed")
    if report.failed:
        print(f"The servers' logs: {', '.join(str(server.log) for server in pair)}", file=sys.stderr)
    return 1 if report.failed or not report.passed else 0


async def main():
    options = arguments()
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:32} {scenario.play.__doc__}")
        return 0
    # A signal that stops this program must also stop the servers.
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, asyncio.current_task().cancel)
    try:
        return await run(options)
    except asyncio.CancelledError:
        return 130


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
