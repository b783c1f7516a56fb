"""What a run costs at least, from its plan: the figures of `jvlm plan --json` on stdin, the price per chip and hour.

    jvlm plan --config FILE --topology v5e:16x16 --json | python launch/cost.py --steps 390625 --price 1.2

The least is at the plan's bound on MFU. `--mfu 0.45` reckons with another one, such as a short run has shown.
"""

import argparse
import json
import sys

from jvlm.plan.topologies import CHIPS, parse


def cost(plan: dict, steps: int, price: float, mfu: float | None = None) -> tuple[float, float]:
    """(hours, money) of `steps` steps at an MFU, by default the plan's bound. ValueError if it does not fit."""
    utilization = plan["mfu_bound"] if mfu is None else mfu
    if not plan["fits"] or not utilization:
        raise ValueError("the step does not fit, so it has no price")
    _, kind, _ = parse(plan["topology"])
    hours = steps * plan["flops"]["model"] / (utilization * CHIPS[kind].flops) / 3600
    return hours, hours * plan["chips"] * price


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument(
        "--price", type=float, required=True, help="of a chip and hour, see cloud.google.com/tpu/pricing"
    )
    parser.add_argument("--mfu", type=float, help="a measured one, instead of the plan's bound")
    options = parser.parse_args()
    try:
        hours, money = cost(json.load(sys.stdin), options.steps, options.price, options.mfu)
    except ValueError as error:
        print(f"cost.py: {error}", file=sys.stderr)
        return 1
    word = "at least " if options.mfu is None else ""
    print(f"{word}{hours:,.1f} hours, {word}{money:,.0f} at {options.price} per chip and hour")
    return 0


if __name__ == "__main__":
    sys.exit(main())
