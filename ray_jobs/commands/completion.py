"""`pinisi completion bash|zsh|fish`: a script with which the Tab key completes commands, flags, shipped recipes and stages.

It is made from the command line's own parser, so it knows each command there is; the shell then asks Python nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ray_jobs.config.reader import RECIPES
from ray_jobs.experiment.specification import shipped
from ray_jobs.run.graph import ROUNDS, STAGES

FREE = (None, "N", "SECONDS", "TOKENS", "KEY=VALUE", "POOL=SHARE", "LANG", "SOURCE", "DOC", "STEP", "SHARE", "N,N")
"""Metavars of values that are neither files nor words from a list."""


@dataclass(frozen=True)
class Flag:
    """`names` such as --set; `values`: words to choose from, None where a file is meant, () for any text; `takes` one at all."""

    names: tuple[str, ...]
    help: str
    values: tuple[str, ...] | None
    takes: bool


@dataclass(frozen=True)
class Command:
    """`path` such as "cluster render", "" for pinisi itself; `words`, and what they mean, that its arguments may be.

    `files`: one of its arguments may be a file."""

    path: str
    flags: tuple[Flag, ...]
    words: tuple[tuple[str, str], ...]
    files: bool


def show(parser: argparse.ArgumentParser, shell: str) -> None:
    print(SHELLS[shell](list(commands(parser))))


def commands(parser: argparse.ArgumentParser, path: str = "") -> Iterator[Command]:
    """`parser` and all its commands below."""
    flags, words, below, files = [], [], [], False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words += [(choice.dest, choice.help or "") for choice in action._choices_actions]
            below += [(f"{path} {name}".lstrip(), sub) for name, sub in action.choices.items()]
        elif action.option_strings:
            text = (
                (action.help or "").replace("%(default)s", str(action.default)).replace("%(const)s", str(action.const))
            )
            flags.append(Flag(tuple(action.option_strings), text, _values(action), action.nargs != 0))
        else:
            words += [(word, "") for word in _values(action) or ()]
            files |= _values(action) is None or action.dest in ("recipe", "experiment")
    yield Command(path, tuple(flags), tuple(words), files)
    for name, sub in below:
        yield from commands(sub, name)


def _values(action: argparse.Action) -> tuple[str, ...] | None:
    if action.choices:
        return tuple(map(str, action.choices))
    if action.dest == "recipe":
        return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    if action.dest == "experiment":
        return tuple(shipped())
    if action.metavar == "STAGE":
        names = [stage.name for stage in STAGES] + list(ROUNDS)
        return tuple(dict.fromkeys(part for name in names for part in (name.split("/")[0], name)))
    return () if action.metavar in FREE else None


def _patterns(found: list[Command]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """`"command:--flag"|"command:--other"` of all flags that take a value of the same kind, and what it may be."""
    kinds: dict[tuple[str, ...] | None, list[str]] = {}
    for command in found:
        for flag in (one for one in command.flags if one.takes):
            kinds.setdefault(flag.values, []).extend(f'"{command.path}:{name}"' for name in flag.names)
    return (("|".join(patterns), values) for values, patterns in kinds.items())


def _bash(found: list[Command]) -> str:
    values = [f'        {pattern}) words="{" ".join(words or ())}" ;;' for pattern, words in _patterns(found)]
    words = []
    for command in found:
        flags = " ".join(name for flag in command.flags for name in flag.names)
        plain = " ".join(word for word, _ in command.words)
        words.append(f'            "{command.path}:-"*) words="{flags}" ;;')
        words.append(f'            "{command.path}:"*) words="{plain}" ;;')
    return "\n".join(
        [
            "# Of bash, for pinisi. In ~/.bashrc: source <(pinisi completion bash)",
            "_pinisi() {",
            '    local current="${COMP_WORDS[COMP_CWORD]}" command="" words="" next i',
            "    for ((i = 1; i < COMP_CWORD; i++)); do",
            '        next="${command:+$command }${COMP_WORDS[i]}"',
            f'        case "$next" in {_paths(found)}) command="$next" ;; esac',
            "    done",
            '    case "$command:${COMP_WORDS[COMP_CWORD - 1]}" in',
            *values,
            '        *) case "$command:$current" in',
            *words,
            "        esac ;;",
            "    esac",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _pinisi pinisi  # files where no word fits",
        ]
    )


def _zsh(found: list[Command]) -> str:
    values, rows = [], []
    for pattern, words in _patterns(found):
        given = "_files" if words is None else f"compadd -- {' '.join(words)}"
        values.append(f"        ({pattern}) {given} ;;")
    for command in found:
        flags = ((name, flag.help) for flag in command.flags for name in flag.names)
        rows.append(f'            ("{command.path}:-"*) found=({_described(flags)}); _describe -o flag found ;;')
        plain = [f"found=({_described(command.words)}); _describe argument found"] if command.words else []
        plain += ["_files"] if command.files else []
        rows.append(f'            ("{command.path}:"*) {"; ".join(plain)} ;;')
    return "\n".join(
        [
            "#compdef pinisi",
            "# Of zsh, for pinisi. In ~/.zshrc, after compinit: source <(pinisi completion zsh)",
            "_pinisi() {",
            '    local command="" next i',
            "    local -a found",
            "    for ((i = 2; i < CURRENT; i++)); do",
            '        next="${command:+$command }${words[i]}"',
            f'        case "$next" in ({_paths(found)}) command="$next" ;; esac',
            "    done",
            '    case "$command:${words[CURRENT - 1]}" in',
            *values,
            '        (*) case "$command:${words[CURRENT]}" in',
            *rows,
            "        esac ;;",
            "    esac",
            "}",
            "compdef _pinisi pinisi",
        ]
    )


def _fish(found: list[Command]) -> str:
    lines = []
    for command in found:
        begin = f"complete -c pinisi -n '__pinisi_at \"{command.path}\"'"
        for flag in command.flags:
            named = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names)
            given = "-r" if flag.values is None else f"-x -a {_quoted(' '.join(flag.values))}"
            lines.append(f"{begin} {named} {f'{given} ' if flag.takes else ''}-d {_quoted(flag.help)}")
        files = "" if command.files else "-f "
        lines += [f"{begin} {files}-a {word} -d {_quoted(text)}" for word, text in command.words]
    paths = " ".join(_quoted(command.path) for command in found if command.path)
    return "\n".join(
        [
            "# Of fish, for pinisi. In ~/.config/fish/config.fish: pinisi completion fish | source",
            "function __pinisi_at",
            "    set -l at",
            "    for word in (commandline -opc)[2..-1]",
            f"        contains -- (string join -- ' ' $at $word) {paths}; and set at (string join -- ' ' $at $word)",
            "    end",
            '    test "$at" = "$argv[1]"',
            "end",
            *lines,
        ]
    )


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def _paths(found: list[Command]) -> str:
    return "|".join(f'"{command.path}"' for command in found if command.path)


def _described(pairs: Iterable[tuple[str, str]]) -> str:
    """Words of zsh's `_describe`: `name:what it is`; names have no colon."""
    return " ".join(_quoted(f"{name}:{text}") for name, text in pairs)


def _quoted(text: str) -> str:
    """In single quotes, as zsh and fish both read them; a backslash would not mean the same in both."""
    return "'" + text.replace("\\", "").replace("'", "'\\''") + "'"
