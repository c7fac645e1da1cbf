"""The numbers, tables and pictures of the written answers: what `make report` makes before LaTeX runs.

    python scripts/latex.py [--results FOLDER]       # of one run; see --data_name, --recipe, --seed

The words stand in report/report.tex. From rows of results come numbers.tex (macros, and switches between sentences),
the tables, and the pictures of the corruption's examples and of the sinusoidal embedding. A result that is missing is
an error that names the command which makes it.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import report  # noqa: E402
from engine.files import fingerprint, read_rows  # noqa: E402
from engine.options import SIZE  # noqa: E402
from engine.recipes import MAIN_RECIPE, RECIPES  # noqa: E402
from engine.wordings import ORIGINAL, REWORDED  # noqa: E402
from modern_llm import LISTED, PROMPTS  # noqa: E402
from report import by_chance, percent  # noqa: E402
from utils import UserError, atomic_write, cli, read_text, write_text  # noqa: E402

# The macros' names of the models in report.MODELS.
SHORT = dict(zip(report.MODELS, ("scratch", "london", "vanilla", "rope", "reworded"), strict=True))
BLOCK, WIDTH = SIZE["block_size"], SIZE["n_embd"]  # of the homework's model
SEARCHED = 100_000  # differences of positions
PHRASES = {"bornLines": "born", "birthplaceLines": "birthplace of"}  # counted in the documents
COLUMNS = 92  # of the console in the picture
EXAMPLES = 3  # wrong answers that are shown
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " "}
SPECIAL |= {c: f"\\{c}" for c in "{}$&#%_"}


def tex(text: str) -> str:
    """A text for LaTeX: special characters escaped, and what its Latin fonts lack as U+ and number."""
    known = {c for c in map(chr, (*range(32, 127), *range(161, 383))) if c not in "\u00adĦħĸĿŀŉŦŧ"}
    known |= set("\n–—‘’“”…")
    return "".join(SPECIAL.get(c, c) if c in known else f"[U+{ord(c):04X}]" for c in text)


def per_cent(share: float) -> str:
    """A share in per cent, for LaTeX."""
    return tex(f"{share:.1%}")


def points(difference: float) -> str:
    """The size of a difference of shares, in percentage points."""
    return f"{100 * abs(difference):.1f}"


def small(p: float) -> str:
    """A p-value as LaTeX formula, with its relation: "= 0.42", "= 1.1 x 10^-63"."""
    mantissa, _, exponent = f"{p:.1e}".partition("e")
    return rf"\ensuremath{{={p:.2g}}}" if p >= 0.001 else rf"\ensuremath{{={mantissa}\times10^{{{int(exponent)}}}}}"


def booktabs(columns: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; cells are LaTeX."""
    head, *rows = (" & ".join(cells) + r" \\" for cells in (heads, *lines))
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule"]) + (
        "\n\\end{tabular}\n"
    )


# ---------------------------------------------------------------- the rows of one run


class Found:
    """The rows that the report is made from: of one data set, recipe and seed.

    Args:
        folder: of results.
        data_name, recipe, seed: which run; None: the only one that there is, or else own data and the main recipe.

    Raises:
        UserError: rows are missing, with the command that makes them; or it is not clear which run is meant.
    """

    def __init__(self, folder: Path, data_name: str | None = None, recipe: str | None = None, seed: int | None = 0):
        self.folder, self.rows = folder, report.read_models(folder)
        pretrained = [row for row in self.rows if "bar" in row and seed in (None, row["seed"])]
        runs = dict.fromkeys((row["data"], row["recipe"]) for row in pretrained)
        runs = [run for run in runs if data_name in (None, run[0]) and recipe in (None, run[1])]
        if len(runs) > 1 and ("own", MAIN_RECIPE) not in runs:
            told = "; ".join(f"--data_name {data} --recipe {name}" for data, name in runs)
            raise UserError(f"{folder / 'accuracy'}: holds several runs; say which one is meant: {told}")
        default = (data_name or "own", recipe or MAIN_RECIPE)
        self.data, self.recipe = runs[0] if len(runs) == 1 else default
        self.seed = seed or 0
        self.models = self.trained()
        self.wording = self.latest("sensitivity", self.run_command())
        self.llms = self.asked()
        self.analysis = {model: self.latest("analysis", self.analysis_command(), model) for model in report.MODELS[2:4]}

    def stop(self, table: str, what: str, command: str) -> UserError:
        """The error for a missing row."""
        run = f"data {self.data}, recipe {self.recipe}, seed {self.seed}"
        return UserError(f"{self.folder / table}: holds no row of {what} ({run}); `{command}` makes it")

    def run_command(self) -> str:
        """What trains the models and adds their rows to this folder."""
        command = "make results" if self.folder.resolve() == ROOT / "results" else "make run"
        data = "" if self.data == "own" else f" DATA=FOLDER DATA_NAME={self.data}"
        return f"{command} RECIPE={self.recipe} SEED={self.seed}{data}"

    def analysis_command(self) -> str:
        """What adds the rows behind question 3."""
        data = "" if self.data == "own" else f" --data FOLDER --data_name {self.data}"
        return f"python experiments/analysis.py --results {self.folder}{data}"

    def llm_command(self) -> str:
        """What asks an LLM."""
        default = self.folder.resolve() == ROOT / "expt" / "results" and self.data == "own"
        data = "" if self.data == "own" else f" --data {self.data} --eval_corpus_path FOLDER/birth_dev.tsv"
        return "make llm" if default else f"python src/modern_llm.py --results_path {self.folder}{data}"

    def trained(self) -> dict[str, dict]:
        """A row for each of the handout's models; of several machines, of the one with the latest row."""
        rows = [row for row in self.rows if row["seed"] == self.seed]
        found = {group[0]["model"]: group[0] for group in report.chosen(rows, self.data, self.recipe)}
        for model in report.MODELS:
            if model not in found:
                table = "accuracy" if "pretrained" in model else "controls"
                raise self.stop(table, model, self.run_command())
        return found

    def latest(self, table: str, command: str, model: str | None = None) -> dict:
        """The latest row of a table that is of this run, and of a model if one is given."""
        run = {"data": self.data, "recipe": self.recipe, "seed": self.seed} | ({"model": model} if model else {})
        found = [row for row in read_rows(self.folder / table) if run.items() <= row.items()]
        if not found:
            raise self.stop(table, model or table, command)
        return max(found, key=lambda row: row.get("date", ""))

    def asked(self) -> list[dict[str, dict]]:
        """Of each LLM that was asked in both wordings and both ways, by the way: what report.compared tells of it.

        The handout's models come first, then the one with most parameters.
        """
        models: dict[tuple, dict[str, dict]] = {}
        for pair in report.compared(self.folder):
            if "prompt" in pair and pair["data"] == self.data and "p_mcnemar" in pair:
                models.setdefault((pair["model"], pair["n"]), {})[pair["prompt"]] = pair
        whole = [ways for ways in models.values() if set(ways) == set(PROMPTS)]
        if not whole:
            raise self.stop("modern_llm", "an LLM asked in both wordings and both ways", self.llm_command())
        return sorted(whole, key=lambda ways: (ways["bare"]["model"] not in LISTED, -ways["bare"]["parameters"]))

    def check_corpus(self, corpus: str) -> None:
        """UserError unless the rows are about this corpus."""
        rows = [*self.models.values(), self.wording, *self.analysis.values()]
        if {row["corpus"] for row in rows if "corpus" in row} - {fingerprint(corpus)}:
            raise UserError(
                f"{self.folder}: its rows are about another corpus than wiki.txt; name the folder of theirs with "
                f"DATA=..., or make new ones with `{self.run_command()}`"
            )


# ---------------------------------------------------------------- numbers.tex


def numbers(found: Found, data: Path) -> str:
    """All macros, and switches (true or false) between sentences."""
    macros, switches = accuracies(found)
    for part in (wordings(found), confidence(found), strategy(found)):
        macros, switches = macros | part[0], switches | part[1]
    macros |= positions() | texts(data)
    macros |= {"block": str(BLOCK), "width": str(WIDTH)}
    lines = [rf"\newcommand{{\{name}}}{{{value}}}" for name, value in macros.items()]
    for name, value in switches.items():
        lines += [rf"\newif\if{name}", rf"\{name}{str(value).lower()}"]
    return "\n".join(lines) + "\n"


def accuracies(found: Found) -> tuple[dict[str, str], dict[str, bool]]:
    """Part 2."""
    models, macros = found.models, {}
    for model, name in SHORT.items():
        row = models[model]
        macros[f"{name}Dev"] = per_cent(row["dev"])
        macros[f"{name}Count"] = f"{round(row['dev'] * row['n'])} of {row['n']}"
        if "bar" in row:
            macros[f"{name}Test"] = per_cent(row["test"]) if "test" in row else "--"
            macros[f"{name}Bar"] = tex(f"{row['bar']:.0%}")
            macros[f"{name}Reaches"] = "reaches" if row["dev"] >= row["bar"] else "misses"
    scratch, london, vanilla, rope = (models[model] for model in report.MODELS[:4])
    word = "no better than" if scratch["dev"] == london["dev"] else "worse than"
    macros |= {
        "scratchVersusLondon": "better than" if scratch["dev"] > london["dev"] else word,
        "ropeLead": points(rope["dev"] - vanilla["dev"]),
        "dataName": {"own": "project's own", "course": "course's"}.get(found.data, f"``{tex(found.data)}''"),
        "recipe": tex(found.recipe),
        "recipeAbout": tex(RECIPES[found.recipe].about if found.recipe in RECIPES else "another recipe"),
        "seed": str(found.seed),
        "hardware": tex(report.machine(rope)),
        "devQuestions": str(rope["n"]),
    }
    switches = {"TestKnown": "test" in vanilla and "test" in rope, "RopeAhead": rope["dev"] > vanilla["dev"]}
    return macros, switches | {"HandoutRecipe": found.recipe == "handout", "Others": bool(other_runs(found))}


def wordings(found: Found) -> tuple[dict[str, str], dict[str, bool]]:
    """Part 4."""
    ours, bare, told = found.wording, found.llms[0]["bare"], found.llms[0]["instructed"]
    macros = {
        "originalWording": tex(ORIGINAL.replace("NAME", "…")),
        "rewordedWording": tex(REWORDED.replace("NAME", "…")),
        "lostCount": str(ours["only_original"]),
        "wonCount": str(ours["only_reworded"]),
        "pValue": small(ours["p_mcnemar"]),
        "parameters": f"{ours['parameters']:,}",
        "llmName": rf"\code{{{tex(bare['model'])}}}",
        "llmParameters": f"{bare['parameters']:,}",
        "instructions": tex(PROMPTS["instructed"].replace("{question}", ORIGINAL.replace("NAME", "…"))),
    }
    for name, pair, kind, match in (
        ("bare", bare, "Exact", "exact"),
        ("bare", bare, "Read", "normalised"),
        ("instructed", told, "Read", "normalised"),
    ):
        for wording in report.POINTS:
            macros[f"{name}{wording.title()}{kind}"] = per_cent(pair[match][wording])
    change, drop = told["normalised"]["reworded"] - told["normalised"]["original"], ours["reworded"] - ours["original"]
    macros |= {"llmChange": points(change), "ropeChange": points(drop)}
    return macros, {
        "Gap": drop < 0 and ours["p_mcnemar"] < 0.05,
        "Listed": bare["model"] in LISTED,
        "MostlyWrong": max(bare["normalised"].values()) < 0.5,
        "Steadier": abs(change) < abs(drop),
        "Behind": told["normalised"]["original"] < ours["original"],
        "Floor": told["normalised"]["original"] < abs(drop),
    }


def confidence(found: Found) -> tuple[dict[str, str], dict[str, bool]]:
    """Part 3(b), about the vanilla model."""
    row = found.analysis["vanilla, pretrained"]
    wrong = [(train, n) for hit, _, train, n in row["kinds"] if not hit]
    half, share = next((n, share) for covered, n, share in row["coverage"] if covered == 50)
    return {
        "vanillaWrong": str(sum(n for _, n in wrong)),
        "inTrainWrong": str(sum(n for train, n in wrong if train)),
        "auroc": f"{row['auroc'][0]:.2f}" if row["auroc"] else "--",
        "surestHalf": f"{round(share * half)} of {half}",
        "surestHalfShare": per_cent(share),
        "coverageAtNinety": tex(f"{row['coverage_at_90']:.0%}"),
    }, {"Examples": "questions" in row, "Auroc": bool(row["auroc"])}


def strategy(found: Found) -> tuple[dict[str, str], dict[str, bool]]:
    """Part 3(c), about the vanilla model."""
    row = found.analysis["vanilla, pretrained"]
    invented, alike = row["invented"], row["invented"]["alike"]
    mixed = next((one for one in row["namesakes"] if (one["people"], one["same"]) == ("mixed", "surname")), None)
    macros = {
        "inventedCount": str(invented["n"]),
        "inventedInTrain": per_cent(invented["in_train"] / invented["n"]),
        "inventedPlaces": tex(", ".join(f"{place} ({n})" for place, n in invented["places"][:3])),
        "alike": per_cent(alike["hits"] / alike["n"]),
        "alikeByChance": tex(by_chance(alike["chance"])),
    }
    switches = {"Alike": alike["hits"] / alike["n"] > alike["chance"][2], "Mixed": bool(mixed), "Surname": False}
    if mixed:
        share = mixed["hits"] / mixed["n"]
        macros |= {"mixedCount": str(mixed["n"]), "mixedShare": tex(percent(share, mixed["n"]))}
        macros["mixedByChance"] = tex(by_chance(mixed["chance"]))
        switches["Surname"] = share > mixed["chance"][2]
    return macros, switches


def texts(data: Path) -> dict[str, str]:
    """What the data files hold."""
    documents = [line for line in read_text(data / "wiki.txt").split("\n") if line.strip()]
    counts = {name: sum(words in line for line in documents) for name, words in PHRASES.items()}
    counts |= {"documents": len(documents)}
    counts |= {"pairs": len(read_text(data / "birth_places_train.tsv").rstrip("\n").split("\n"))}
    return {name: f"{count:,}" for name, count in counts.items()}


# ---------------------------------------------------------------- part 1(b): the sinusoidal embedding


def sinusoids(length: int, dim: int) -> np.ndarray:
    """The position embedding of part 1(b), (length, dim): sin and cos of t 10000^(-2i/dim), in turn. dim is even."""
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, dim, 2) / dim)  # (length, dim/2)
    return np.stack((np.sin(angle), np.cos(angle)), axis=-1).reshape(length, dim)


def distances(length: int, dim: int) -> np.ndarray:
    """How far Phi_t lies from Phi_0, and so Phi_{s+t} from Phi_s for every s: a chord of 2 |sin(angle/2)| a pair.

    Returns:
        (length, dim/2): of t = 0 .. length - 1, the distance of the first 1, 2, ... dim/2 pairs.
    """
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, dim, 2) / dim)
    return np.sqrt(np.cumsum((2 * np.sin(angle / 2)) ** 2, axis=1))


def positions() -> dict[str, str]:
    """Macros: how near two positions come, up to a difference of SEARCHED."""
    apart = distances(SEARCHED + 1, WIDTH)[1:]
    nearest = int(apart[:, 0].argmin())
    return {
        "searchedUpTo": f"{SEARCHED:,}",
        "nearestShift": str(nearest + 1),
        "nearestTurns": str(round((nearest + 1) / (2 * np.pi))),
        "nearestFirst": f"{apart[nearest, 0]:.6f}",
        "nearestWhole": f"{apart[nearest, -1]:.1f}",
        "leastWhole": f"{apart[:, -1].min():.1f}",
    }


# ---------------------------------------------------------------- tables


def accuracy_table(found: Found) -> str:
    """The handout's models."""
    lines = []
    for model, row in found.models.items():
        test = tex(percent(row["test"], row["test_n"])) if "test" in row else "--"
        bar = tex(f"{row['bar']:.0%}") if "bar" in row else "--"
        minutes = f"{row['seconds'] / 60:.1f}" if "seconds" in row else "--"
        lines.append([model, tex(percent(row["dev"], row["n"])), test, bar, minutes])
    return booktabs("lllrr", ["model", "dev", "test", "bar", "minutes"], lines)


def other_runs(found: Found) -> list[list[dict]]:
    """Rows of pretrained models by other recipes or on other data, those of the seeds of a run together."""
    rows = [row for row in found.rows if "bar" in row and (row["data"], row["recipe"]) != (found.data, found.recipe)]
    return [group for _, group in report.grouped(rows, "model", "data", "recipe", "hardware", "precision")]


def other_table(found: Found) -> str:
    """The other runs, recipe after recipe."""
    columns = ("model", "data", "recipe", "seeds", "dev (95 %)", "range", "hardware")
    lines = [[tex(report.COLUMNS[name](group)) for name in columns] for group in other_runs(found)]
    return booktabs("lllllll", [tex(name) for name in columns], lines)


def example_table(found: Found) -> str:
    """The most confident wrong answers of the vanilla model, each with the right one that is as confident as it."""
    questions, lines = found.analysis["vanilla, pretrained"].get("questions", []), []
    right = [one for one in questions if one["right"]]
    wrong = sorted((one for one in questions if not one["right"]), key=lambda one: -one["confidence"])
    for one in wrong[:EXAMPLES]:
        nearest = sorted(right, key=lambda other: abs(other["confidence"] - one["confidence"]))[:1]
        right = [other for other in right if other not in nearest]
        for shown in (one, *nearest):
            words = (shown["name"], shown["answer"], shown["truth"], f"{shown['confidence']:.2f}")
            lines.append([*map(tex, words), "right" if shown["right"] else "wrong"])
    return booktabs("lllrl", ["person", "answer", "birthplace", "confidence", ""], lines) if lines else ""


def llm_table(found: Found) -> str:
    """Our model and the LLMs, both wordings."""
    ours, lines = found.wording, []
    share = [per_cent(ours[wording]) for wording in report.POINTS]
    lines.append([f"our RoPE model ({tex(found.recipe)})", "question alone", *share, "--", "--"])
    for ways in found.llms:
        for name in PROMPTS:
            pair = ways[name]
            shares = [per_cent(pair[kind][wording]) for kind in ("exact", "normalised") for wording in report.POINTS]
            lines.append([tex(pair["model"].rpartition("/")[2]), pair["asked"], *shares])
    heads = ["model", "asked", "exact, original", "reworded", "read, original", "reworded"]
    return booktabs("llrrrr", heads, lines)


# ---------------------------------------------------------------- pictures


def corruption(data: Path) -> str:
    """What the program of part (e) prints."""
    command = ["src/dataset.py", "charcorruption", "--pretrain_corpus_path", str((data / "wiki.txt").resolve())]
    place = {"cwd": ROOT, "env": os.environ | {"PYTHONUTF8": "1"}}
    done = subprocess.run([sys.executable, *command], **place, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: "))
    return "$ python src/dataset.py charcorruption\n" + done.stdout.rstrip() + "\n"


def save(figure, path: Path) -> None:
    """Write a picture as PDF, with its fonts and without the date."""
    with atomic_write(path) as file, report.pyplot().rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    report.pyplot().close(figure)


def draw_console(path: Path, text: str) -> None:
    """A text as a console shows it: COLUMNS wide, and of a character that the font lacks its number."""
    plt = report.pyplot()
    from matplotlib.font_manager import findfont, get_font

    have = get_font(findfont("DejaVu Sans Mono")).get_charmap()
    text = "".join(c if ord(c) in have or c == "\n" else f"\\u{ord(c):04x}" for c in text)
    lines = [line[i : i + COLUMNS] for line in text.split("\n")[:-1] for i in range(0, max(1, len(line)), COLUMNS)]
    width, size = 6.46, 6.46 * 72 / (COLUMNS + 2) / 0.602  # inches; points, of a font whose characters are 0.602 wide
    figure = plt.figure(figsize=(width, (len(lines) + 1) * 1.3 * size / 72), facecolor="#f4f6f8")
    for i, line in enumerate(lines):
        place = (1 / (COLUMNS + 2), 1 - (i + 0.5) / (len(lines) + 1))
        figure.text(*place, line, va="top", family="DejaVu Sans Mono", size=size, parse_math=False)
    save(figure, path)


def draw_sinusoids(path: Path) -> None:
    """The embedding as a map, and how far positions lie apart."""
    figure, (left, right) = report.pyplot().subplots(1, 2, figsize=(6.46, 2.5), layout="constrained")
    values = left.imshow(sinusoids(BLOCK, WIDTH), aspect="auto", cmap="RdBu", vmin=-1, vmax=1, rasterized=True)
    figure.colorbar(values, ax=left)
    left.set_xlabel("feature")
    left.set_ylabel("position t")
    apart = distances(1001, WIDTH)[1:]
    for pairs, colour, name in ((0, "#c1121f", "first pair"), (-1, "#2a6f97", "all pairs")):
        right.semilogy(np.arange(1, 1001), apart[:, pairs], ".", color=colour, markersize=2, label=name)
    right.set_xlabel("position t")
    right.set_ylabel(r"distance of $\Phi_t$ to $\Phi_0$")
    right.legend(loc="lower left", frameon=False, fontsize=8, markerscale=4)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
    right.spines[["top", "right"]].set_visible(False)
    save(figure, path)


# ---------------------------------------------------------------- all of it


def main(argv: list[str] | None = None) -> int:
    """Write everything that report/report.tex reads."""
    parser = argparse.ArgumentParser(description="Write the numbers, tables and pictures of the report.")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the rows (default: results)")
    parser.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--data_name", help="whose rows, if there are several: own, course, ...")
    parser.add_argument("--recipe", help="of which recipe, if there are several")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "expt" / "report", help="default: expt/report")
    args = parser.parse_args(argv)
    if report.pyplot() is None:
        raise UserError("the report's pictures need matplotlib: pip install -r requirements-dev.txt")
    found = Found(args.results, args.data_name, args.recipe, args.seed)
    found.check_corpus(read_text(args.data / "wiki.txt"))
    tables = {"accuracy": accuracy_table, "others": other_table, "llm": llm_table, "examples": example_table}
    try:
        written = {name: table(found) for name, table in tables.items()} | {"numbers": numbers(found, args.data)}
    except KeyError as error:
        raise UserError(f"{args.results}: a row lacks {error}, so an older program wrote it; make it anew") from None
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        write_text(args.out / f"{name}.tex", text)
    draw_console(args.out / "corruption.pdf", corruption(args.data))
    draw_sinusoids(args.out / "sinusoids.pdf")
    print(f"{args.out}: data {found.data}, recipe {found.recipe}, seed {found.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))
