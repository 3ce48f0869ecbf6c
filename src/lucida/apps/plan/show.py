"""A plan for people: tables of parts, stages and memory."""

from __future__ import annotations

from typing import Any

from lucida.apps.plan.fitting import advice, fits
from lucida.core.progress import table

MIB, GIB = 2**20, 2**30


def show(plan: dict[str, Any]) -> None:
    """Print a plan of `plan_recipe`."""
    device = plan["device"]
    table("modules", ["module", "parameters"], [[n, f"{v:,}"] for n, v in plan["modules"].items()])
    tokens = plan["tokens_per_image"]
    most = "" if tokens["most"] <= tokens["one_view"] else f", at most {tokens['most']:,} in tiles"
    read = "" if tokens["in_the_text"] else " (read by gated layers, one place in the text)"
    print(f"visual tokens per image: {tokens['one_view']:,}{most}{read}\n")
    rows = []
    for stage in plan["stages"]:
        hours = stage["hours"]
        rows.append(
            [
                stage["name"],
                ", ".join(f"{name} {size:,}" for name, size in stage["trained_by_part"].items()),
                f"{stage['frozen']:,}",
                f"{stage['tokens_per_step']:,}",
                f"{stage['flops_per_step']:.3g}",
                duration(stage["seconds_per_step"]),
                "unknown" if stage["steps"] is None else f"{stage['steps']:,}",
                "unknown" if hours is None else duration(hours * 3600),
            ]
        )
    table(
        f"stages on {device['count']} x {device['name']} ({device['precision']}, "
        f"{device['share_of_peak']:.0%} of {device['peak_flops'] / 1e12:.3g} TFLOP/s)",
        ["stage", "trains", "frozen", "tokens/step", "FLOPs/step", "time/step", "steps", "in all"],
        rows,
    )
    for stage in plan["stages"]:
        print(f"lengths of {stage['name']}: {describe_lengths(stage)}")
    rows = [
        [stage["name"], engine, *(size(value) for value in parts.values()), room(parts, device)]
        for stage in plan["stages"]
        for engine, parts in stage["memory"].items()
    ]
    columns = ["weights", "gradients", "optimizer", "activations", "logits", "at once"]
    print()
    table("memory of one device", ["stage", "engine", *columns, "fits"], rows)
    for stage in plan["stages"]:
        for line in advice(stage):
            print(line)
    if device["count"] > 1:
        print("fsdp: within a stage; between two stages each rank holds the whole model")
    exports = plan["exports"]
    print(f"exports to: {', '.join(exports['formats'])}")
    for reason in exports["no_llava_because"]:
        print(f"  not llava: {reason}")
    for name, reasons in exports["no_vllm_because"].items():
        told = "; ".join(reasons) or "yes, by its source; `lucida export` writes the command"
        print(f"  vLLM runs {name}: {'no: ' * bool(reasons)}{told}")


def describe_lengths(stage: dict[str, Any]) -> str:
    """Where the lengths of a stage come from, and what they are on average."""
    lengths = stage["lengths"]
    words = [f"{lengths['tokens_per_sample']:,.0f} tokens per sample"]
    if lengths["tokens_per_image"] is not None:
        words.append(f"{lengths['tokens_per_image']:,.0f} per image")
        if lengths["views_per_image"] > 1:
            words.append(f"{lengths['views_per_image']:.1f} views per image")
    if lengths["rows_filled"] < 1:
        words.append(f"rows {lengths['rows_filled']:.1%} full")
    return f"{', '.join(words)}; {lengths['found']}"


def size(value: float) -> str:
    """Bytes for people."""
    return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.0f} MiB"


def room(parts: dict[str, float], device: dict[str, Any]) -> str:
    """Whether it fits the device."""
    enough = fits(parts["peak"], device["memory"])
    if enough is None:
        return "unknown"
    return "yes" if enough else f"no ({size(device['memory'])})"


def duration(seconds: float) -> str:
    """Time for people."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
