"""The front door: mounts the packages' command groups as ``metaspo ...``, and starts their processes for ``up`` and
``demo``.

Nothing of the packages is imported before one of their commands runs, so that ``metaspo --help`` answers at once.
Every error of the house reaches a user as one sentence and exit code 1 (usage errors: 2); a traceback goes to a file,
never to the terminal.
"""

from __future__ import annotations

import sys


def _unforeseen(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What happens outside of ``main``. A Ctrl-C while the modules below are loaded is no traceback either."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("\nstopped.\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _unforeseen

import asyncio
import contextlib
import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from processes import House, Program
    from registry import Settings

VERSION = "0.1.0"
PACKAGES = ("registry", "gateway", "optimizer", "jobs")
ERRORS = {"registry": "RegistryError", "gateway": "GatewayError", "optimizer": "OptimizerError", "jobs": "JobsError"}

MOUNTED = {
    # name: (where its command is, what it does in a few words)
    "gateway": ("gateway.cli:gateway", "The gateway alone: serve."),
    "jobs": ("jobs.cli:jobs", "Worker, scheduler, what runs when, run one now."),
    "domains": ("registry.cli:domains", "Families of tasks that share one system prompt: list, show, set."),
    "prompts": ("registry.cli:prompts", "Versions and the pointers: list, add, promote, canary, rollback, history."),
    "samples": ("registry.cli:samples", "What was kept of the traffic: list, export, erase."),
    "keys": ("registry.cli:keys", "Gateway keys: create, list, revoke."),
    "judge": ("jobs.cli:judge", "Agreement of the judge with labels: calibrate."),
    "optimize": ("jobs.cli:optimize", "Ask for a re-optimization of a domain now, and follow it."),
    "runs": ("jobs.cli:runs", "Searches: list, show, resume."),
    "search": ("optimizer.cli:search", "The optimizer as a tool on files alone."),
    "gate": ("jobs.cli_gate:gate", "A prompt that a person wrote against the live one: for CI, before a merge."),
    "estimate": ("optimizer.cli:estimate", "Calls, tokens and price of a search before it spends."),
    "paper": ("optimizer.paper.cli:paper", "The paper's protocol: methods x tasks, tables and figures."),
    "backup": ("registry.cli:backup", "Write the registry to one file."),
    "restore": ("registry.cli:restore", "Read the registry back from one file."),
}
SIMULATIONS = {
    "gate": ("optimizer.cli:simulate.gate", "Error rates and power of the gate at this domain's sizes."),
    "search": ("optimizer.cli:simulate.search", "Search methods on simulated worlds with known truth."),
    "canary": ("jobs.cli:simulate.canary", "Error rates, power and delays of the canary."),
}


class LazyGroup(click.Group):
    """Commands that live elsewhere: `mounted` maps a name to ``module:attribute[.subcommand]`` and its short help."""

    def __init__(self, *args: Any, mounted: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mounted = mounted

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [*self.commands, *self.mounted]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.mounted:
            return super().get_command(ctx, cmd_name)
        where, _ = self.mounted[cmd_name]
        module, _, attribute = where.partition(":")
        attribute, _, subcommand = attribute.partition(".")
        found: Any = getattr(import_module(module), attribute)
        command: click.Command | None = found.get_command(ctx, subcommand) if subcommand else found
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing the packages that hold them."""
        rows = [(name, command.get_short_help_str(90)) for name, command in self.commands.items()]
        rows += [(name, text) for name, (_, text) in self.mounted.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=LazyGroup, mounted=MOUNTED, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="METASPO_CONFIG",
    help="The config file (default: metaspo.yaml here, when there is one).",
)
@click.version_option(VERSION, prog_name="metaspo")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """An OpenAI-compatible gateway whose system prompts improve by themselves, safely."""
    if config is None and Path("metaspo.yaml").is_file():
        config = Path("metaspo.yaml")
    if config is not None:
        os.environ["METASPO_CONFIG"] = str(config.resolve())  # the processes that a command starts read the same file
    ctx.params["config"] = config
    ctx.obj = {"config": config}


cli.add_command(
    LazyGroup(
        "simulate",
        mounted=SIMULATIONS,
        help="Measured error rates of gate, canary and search on worlds with known truth.",
    )
)


def settings_of(ctx: click.Context) -> Settings:
    from registry import load_settings

    return load_settings(ctx.find_root().obj["config"])


async def silence_of(settings: Settings) -> str:
    """Why the Redis of ``redis_url`` does not answer just now; empty when it does."""
    from registry import Registry, RegistryError

    try:
        registry = await Registry.from_settings(settings)
        await registry.close()
    except RegistryError as error:
        return str(error)
    return ""


async def write_settings(settings: Settings, redis_url: str) -> None:
    """Write the file's keys, domains and first versions into the registry, signed.

    Done before any gateway worker reads its first snapshot, so that none refuses a key that the file names.
    """
    from registry import Registry, Signer

    signer = Signer.load_or_create(settings.signing_key_path.expanduser())
    registry = await Registry.from_settings(settings, redis_url, signer=signer)
    try:
        await registry.sync_settings(settings)
    finally:
        await registry.close()


@contextlib.contextmanager
def house(
    settings: Settings,
    *,
    say: Callable[[str], None],
    workers: int | None = None,
    before: Sequence[Program] = (),
    config: Path | None = None,
) -> Iterator[House]:
    """Start everything that `settings` describe and yield it ready; all of it ends with the block.

    `before` are programs that must be ready before the gateway starts (the demo's language models); `config` is the
    file that the processes read when it is not the one of the command line.
    Raises ProcessError, or the registry's error when the embedded Redis cannot be started.
    """
    import processes
    from registry import EmbeddedRedis

    home = settings.home.expanduser().absolute()
    with contextlib.closing(processes.claim_home(home)), processes.Tree(home, say=say) as tree:
        host, port = processes.free_address(settings.listen)
        url = processes.url_of(host, port)
        env = {"METASPO_HOME": str(home), "METASPO_LISTEN": f"{host}:{port}"}
        if config is not None:
            env["METASPO_CONFIG"] = str(config)
        if not settings.redis_url:
            env["METASPO_REDIS_URL"] = tree.start_storage(lambda: EmbeddedRedis.start(home))
            asyncio.run(write_settings(settings, env["METASPO_REDIS_URL"]))
        for program in before:
            tree.start(program)
        serve = ["gateway", "serve", "--workers", str(workers or settings.gateway.workers)]
        # With an outside Redis that is down the gateway still serves, so it only has to be alive.
        ready = f"{url}/healthz" if settings.redis_url else f"{url}/readyz"
        drain = settings.gateway.drain + 3
        tree.start(processes.Program("gateway", processes.metaspo(*serve), env, ready, grace=drain))
        tree.start(processes.Program("worker", processes.metaspo("jobs", "worker"), env))
        tree.start(processes.Program("scheduler", processes.metaspo("jobs", "scheduler"), env))
        yield processes.House(tree, url, env)


@cli.command()
@click.option(
    "--workers", type=click.IntRange(1, 64), help="Gateway processes (default: `workers` of the config file)."
)
@click.pass_context
def up(ctx: click.Context, workers: int | None) -> None:
    """All in one process tree: storage, gateway, worker, scheduler."""
    import processes

    settings = settings_of(ctx)
    stopped = contextlib.suppress(KeyboardInterrupt)
    with processes.interrupts, stopped, house(settings, workers=workers, say=click.echo) as running:
        storage = "the Redis of redis_url" if settings.redis_url else f"embedded, under {settings.home}"
        click.echo(f"metaspo is up: point an OpenAI SDK at {running.url}/v1")
        click.echo(f"  console  {running.url}/console")
        click.echo(f"  storage  {storage}")
        click.echo(f"  logs     {running.tree.logs}")
        if settings.redis_url and (silence := asyncio.run(silence_of(settings))):
            click.echo(f"  missing  storage: {silence} Requests are answered with what was last known; jobs wait.")
        for note in settings.notes:
            click.echo(f"  note     {note}")
        if not settings.upstreams:
            click.echo("  missing  no upstream: name a model provider under `upstreams` in the config file")
        if not any(key.role == "caller" for key in settings.keys):
            click.echo("  missing  no caller key in the config file: metaspo keys create --role caller --name my-app")
        click.echo("Ctrl-C stops it.")
        running.tree.wait()


@cli.command()
@click.option("--model", type=click.Path(path_type=Path), help="A GGUF file to serve in place of SmolLM2-135M.")
@click.option("--models", type=click.Path(path_type=Path), help="A folder with a base and an optimizer model (GGUF).")
@click.option(
    "--home", type=click.Path(path_type=Path), help="Where it lives (default: `home` of the config, .metaspo)."
)
@click.option(
    "--size",
    type=click.Choice(["small", "full"]),
    default="full",
    help="small: under a minute, too few rows to pass the gate.",
)
@click.option("--stay", is_flag=True, help="Keep gateway and console open at the end, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="End with the summary as JSON in place of the page.")
@click.pass_context
def demo(
    ctx: click.Context, model: Path | None, models: Path | None, home: Path | None, size: str, stay: bool, as_json: bool
) -> None:
    """The whole loop on this machine, with a real language model."""
    from demo.story import tell

    home = home or settings_of(ctx).home
    tell(home, house, model=model, models=models, size=size, stay=stay, as_json=as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Say what is wrong here and how to mend it."""
    settings = settings_of(ctx)

    async def examine() -> list[Any]:
        found = await asyncio.gather(*(import_module(name).check(settings) for name in PACKAGES))
        return [finding for findings in found for finding in findings]

    findings = asyncio.run(examine())
    if as_json:
        click.echo(
            json.dumps([{"name": f.name, "ok": f.ok, "message": f.message, "mend": f.mend} for f in findings], indent=1)
        )
    else:
        for finding in findings:
            said = f"{finding.name}: {finding.message}"
            click.echo(click.wrap_text(said, 80, "ok   " if finding.ok else "BAD  ", " " * 5))
            if finding.mend and not finding.ok:
                click.echo(click.wrap_text(finding.mend, 80, "     -> ", " " * 8))
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        raise click.ClickException(f"{wrong} of {len(findings)} checks found something to mend.")


def is_ours(error: BaseException) -> bool:
    """Whether `error` is one of the packages' own: a sentence for the user. Looks only at packages that are loaded."""
    loaded = [(sys.modules[name], kind) for name, kind in ERRORS.items() if name in sys.modules]
    loaded += [(sys.modules["processes"], "ProcessError")] if "processes" in sys.modules else []
    return any(isinstance(error, getattr(module, kind, ())) for module, kind in loaded)


def keep_traceback(error: BaseException) -> str:
    """Write the traceback of an error that nobody foresaw to a file of its own and return its name."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="metaspo-", suffix=".traceback", delete=False, encoding="utf-8"
    ) as file:
        traceback.print_exception(error, file=file)
    return file.name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (failed) or 2 (usage). No traceback ever reaches the terminal."""
    try:
        return cli.main(args=arguments, prog_name="metaspo", standalone_mode=False) or 0
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nstopped.", err=True)
    except BrokenPipeError:  # `metaspo ... | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        click.echo(f"Error: the system said no: {error.strerror or error}{place}.", err=True)
    except Exception as error:
        if is_ours(error):
            click.echo(f"Error: {error}", err=True)
        else:
            kept = keep_traceback(error)
            click.echo(
                f"Error: {type(error).__name__}: {error}. This is a fault of metaspo: please report it with {kept}",
                err=True,
            )
    return 1


if __name__ == "__main__":
    sys.exit(main())
