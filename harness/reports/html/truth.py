"""The truth table: who may reach what, and whether it was so."""

from __future__ import annotations

from collections.abc import Sequence

from harness.attacks import title_of
from harness.markup import Markup, element, joined
from harness.run import Result
from harness.verdict import outcome_of

SIGNS = {"held": "✓", "broken": "✗", "unknown": "?"}


def expected(result: Result) -> str:
    """Return what a scenario expects: `allowed`, or `rejected at HOP`."""
    word, outcome = outcome_of(result.item.scenario.expect)
    at = getattr(outcome, "at", None)
    return f"{word} at {at}" if at else word


def target(result: Result) -> str:
    """Return what the client did: the command that it ran, or the URL that it probed, and how."""
    item = result.item
    words = item.scenario.run or item.to or ""
    through = f" through {item.through}" if item.through else ""
    return words + through + (" round its sidecar" if item.scenario.bypass else "")


def sender(result: Result) -> str:
    """Return who sent the flow, and what it showed of itself where that was forged."""
    item = result.item
    return item.source + (f": {title_of(item.attack)}" if item.attack else "")


def badge(state: str) -> Markup:
    """Return a verdict with its sign, which says the same as its colour."""
    return element("span", f"{SIGNS[state]} {state}", class_=f"verdict {state}")


def truth_table(numbered: Sequence[tuple[int, Result]]) -> Markup:
    """Return a row for each client and a column for each target; each cell leads to its flows, by their numbers."""
    results = [result for _, result in numbered]
    columns = tuple(dict.fromkeys(target(result) for result in results))
    cells: dict[tuple[str, str], list[Markup]] = {}
    for number, result in numbered:
        word, _ = outcome_of(result.item.scenario.expect)
        link = element(
            "a",
            badge(result.verdict.state),
            f" {expected(result)}{' after steps' if result.item.scenario.given else ''}",
            href=f"#flow-{number}",
            title=result.item.id,
            class_=f"cell {word}",
        )
        cells.setdefault((sender(result), target(result)), []).append(link)
    heads = [element("th", "from", scope="col")]
    heads += [element("th", element("code", column), scope="col") for column in columns]
    rows = [
        element(
            "tr",
            element("th", source, scope="row"),
            *(
                element("td", *cells.get((source, column), [element("span", "not tried", class_="soft")]))
                for column in columns
            ),
        )
        for source in dict.fromkeys(sender(result) for result in results)
    ]
    caption = element(
        "caption", "Each client against each target: the verdict, then what its scenario expects"
    )
    return table_of(
        joined([caption, element("thead", element("tr", *heads)), element("tbody", *rows)]), "truth"
    )


def table_of(content: Markup, name: str) -> Markup:
    """Return a table that scrolls by itself where the page is too narrow for it; also by keyboard."""
    table = element("table", content, class_=name)
    return element("div", table, class_="scroll", role="region", aria_label=f"{name} table", tabindex="0")
