"""The committed table of mutation testing: killed by area, and each survivor with its reason."""

from pathlib import Path


def write_table(results: list[dict], reasons: dict, path: Path, seed: int) -> tuple[float, int]:
    """Writes the table; (share killed, number of survivors without a reason).

    Args:
      results: area, name, line, kind and killed of every fault.
      reasons: why a survivor may live, by its name.
    """
    lines = [
        "# Faults that the tests notice", "",
        f"`make mutants`, seed {seed}: faults put into the core one at a time, each judged by the",
        "fast tests of its module (`run.py` says how).", "",
        "| area | faults | killed | share |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for area in dict.fromkeys(one["area"] for one in results):
        here = [one for one in results if one["area"] == area]
        killed = sum(one["killed"] for one in here)
        lines.append(f"| {area} | {len(here)} | {killed} | {killed / len(here):.0%} |")
    killed = sum(one["killed"] for one in results)
    share = killed / max(len(results), 1)
    lines.append(f"| all | {len(results)} | {killed} | {share:.0%} |")
    survivors = [one for one in results if not one["killed"]]
    unexplained = [one for one in survivors if one["name"] not in reasons]
    lines += ["", "## Survivors", "", "| fault | why it may live |", "| --- | --- |"]
    for one in survivors:
        name = one["name"].replace("|", "\\|")
        lines.append(f"| {name} | {reasons.get(one['name'], '(not looked at)')} |")
    path.write_text("\n".join(lines) + "\n")
    return share, len(unexplained)
