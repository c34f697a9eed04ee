"""Make answers.jsonl: what made-up models answered on made-up prompts of a help desk, in the form that readers take.

python cookbook/make_answers.py
"""

import json
from pathlib import Path

import numpy as np

PLACES = ("Lisbon", "Oslo", "Nairobi", "Quito", "Hanoi", "Perth", "Turin", "Osaka", "Malmo", "Accra")
THINGS = ("kettle", "lamp", "backpack", "keyboard", "tent", "bicycle", "blender", "jacket", "drone", "mattress")
KINDS = {
    "sums": lambda a, b, place, thing: f"An order of {a} {thing}s at ${b}.50 each, with 12 % off: what is the total?",
    "extraction": lambda a, b, place, thing: (
        f"Give order number and city as JSON: 'My {thing}, order {a}{b}, never came to {place}.'"
    ),
    "letters": lambda a, b, place, thing: (
        f"Write a kind reply to a customer in {place} whose {thing} arrived {a} days late."
    ),
    "code": lambda a, b, place, thing: (
        f"Write a SQL query: how many {thing}s were shipped to {place} in the last {a} days?"
    ),
}
# name: USD per million tokens in and out, then the share of wrong answers to sums, extraction, letters and code
MODELS = {
    "small": (0.10, 0.40, (0.70, 0.08, 0.05, 0.55)),
    "medium": (0.60, 2.40, (0.35, 0.04, 0.04, 0.30)),
    "large": (3.00, 15.00, (0.06, 0.03, 0.03, 0.08)),
    "coder": (0.30, 1.20, (0.30, 0.06, 0.30, 0.10)),
    "scribe": (0.15, 0.60, (0.80, 0.15, 0.04, 0.75)),
    "sage": (5.00, 25.00, (0.03, 0.03, 0.02, 0.05)),
    "newcomer": (0.25, 1.00, (0.08, 0.05, 0.10, 0.40)),
}
PROMPTS_OF_A_KIND = 150
TOKENS_OUT = {"sums": 90, "extraction": 25, "letters": 180, "code": 70}


def main() -> None:
    """Write 4,200 lines, a model's answer to a prompt each, in no order of kinds."""
    rng = np.random.default_rng(0)
    prompts = [(kind, i) for kind in KINDS for i in range(PROMPTS_OF_A_KIND)]
    lines = []
    for kind, i in (prompts[j] for j in rng.permutation(len(prompts))):
        a, b = 3 + i, int(rng.integers(10, 99))
        prompt = KINDS[kind](a, b, PLACES[i % len(PLACES)], THINGS[i // len(PLACES) % len(THINGS)])
        hard = rng.normal()  # what all models share
        for model, (price_in, price_out, wrong) in MODELS.items():
            odds = np.log(wrong[list(KINDS).index(kind)] / (1 - wrong[list(KINDS).index(kind)]))
            quality = int(rng.random() > 1 / (1 + np.exp(-(odds + hard))))
            tokens_in, tokens_out = len(prompt) // 4, int(TOKENS_OUT[kind] * rng.lognormal(0, 0.3))
            cost = round((tokens_in * price_in + tokens_out * price_out) / 1e6, 9)
            line = {"prompt": prompt, "model": model, "quality": quality, "cost": cost}
            lines.append(json.dumps({**line, "tokens_in": tokens_in, "tokens_out": tokens_out}))
    (Path(__file__).parent / "answers.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
