"""The numbers, tables and figures of the written answers: what `make report` makes before LaTeX runs.

    python report/latex.py [--results FOLDER] [--data FOLDER] [--data_name NAME] [--recipe NAME] [--seed 0]

The words stand in report/report.tex. From the rows of one run come numbers.tex (a macro a number), the tables, and the
figures. A result that is missing, or is about other data than the files, is an error that names the command which makes
it. What experiments of their own have measured (positions, learning, what was left out) comes from results/ for every
run.
"""

import argparse
import contextlib
import inspect
import io
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

import dataset
from attention import CausalSelfAttention
from batches import Batches
from dataset import CharCorruptionDataset
from engine.recipes import MAIN_RECIPE, RECIPES
from engine.wordings import ORIGINAL, REWORDED, WORDINGS, mcnemar
from experiments.confidence import own_documents, read_invented, read_places, stands_in
from modern_llm import LISTED, PROMPTS
from report import experiment_tables, figures, rows, settings, tables
from report.tables import BARS, MODELS, PRETRAINED, REWORDED_4A, SHARES, latex, percent, shown, tex
from utils import MASK_CHAR, UserError, cli, fingerprint, read_text, write_text

# Prefix of the macros about each model.
SHORT = dict(zip(MODELS, ("scratch", "london", "vanilla", "rope", "reworded"), strict=True))
PHRASES = {"bornLines": "born", "birthplaceLines": "birthplace of"}  # counted in the documents, in capitals or not
EXAMPLES = 3  # of answers and replies that are shown
LONGEST_REPLY = 220  # characters that are shown


# ---------------------------------------------------------------- the rows of one run


@dataclass
class Run:
    """One run: data set, recipe and seed, and where its rows and its data files are."""

    folder: Path
    data: Path
    name: str  # of the data
    recipe: str
    seed: int

    def error(self, table: str, reason: str, command: str) -> UserError:
        """The error for rows that cannot be used, with the command that makes them."""
        make = command.startswith("make")
        told = {"results": self.folder, "data": self.data, "data_name": self.name}
        words = [f"{name.upper()}={value}" if make else f"--{name}={value}" for name, value in told.items()]
        return UserError(f"{self.folder / table}.csv: {reason}; run `{shlex.join([*command.split(), *words])}`")

    def rows(self, table: str, what: str, command: str, found: pd.DataFrame | None = None, **wanted) -> pd.DataFrame:
        """The rows of this run in a table (or in `found`), of one machine. UserError: none, or of another corpus."""
        found = rows.read(table, self.folder) if found is None else found
        found = rows.select(found, data=self.name, recipe=self.recipe, seed=self.seed, **wanted)
        run = f"{what} (data {self.name}, recipe {self.recipe}, seed {self.seed})"
        if found.empty:
            raise self.error(table, f"holds no row of {run}", command)
        if (found["corpus"] != fingerprint(read_text(self.data / "wiki.txt"))).any():
            raise self.error(table, f"the row of {run} is about another corpus than {self.data / 'wiki.txt'}", command)
        return found

    @property
    def training(self) -> str:
        """The command that trains this run."""
        return f"make run RECIPE={self.recipe} SEED={self.seed}"

    def models(self) -> pd.DataFrame:
        """A row for each of the handout's models, by name. UserError: the recipe has changed since."""
        run = {"data": self.name, "recipe": self.recipe, "seed": self.seed}
        every, models = tables.one_run(tables.read_models(self.folder), **run), []
        for model in MODELS:
            found = self.rows("accuracy", model, self.training, every, model=model)
            if not rows.is_current(found).all():
                raise self.error("accuracy", f"{model}: recipe {self.recipe} has changed since", self.training)
            models.append(found.head(1))
        return pd.concat(models).set_index("model", drop=False)

    def reworded(self) -> pd.DataFrame:
        """The answers of our RoPE model to every question in both wordings."""
        return self.rows("sensitivity_questions", "the reworded question", self.training)

    def answers(self, table: str = "analysis", model: str = MODELS[2]) -> pd.DataFrame:
        """The rows of a table about a model's answers."""
        return self.rows(table, model, "python experiments/confidence.py", model=model)

    def llm(self, table: str = "modern_llm") -> pd.DataFrame:
        """The rows of one LLM that was asked both ways in both wordings: a listed one, or that with most parameters."""
        asked, found = fingerprint(read_text(self.data / "birth_dev.tsv")), rows.read("modern_llm", self.folder)
        if len(found):
            found = found[(found["data"] == self.name) & (found["questions"] == asked)]
        found = found[found.groupby(["model", "n"])["prompt"].transform("size") == 4]
        if found.empty:
            raise self.error(table, "holds no row of an LLM asked these questions, both ways, twice", "make llm")
        best = found.assign(listed=found["model"].isin(LISTED)).sort_values(["listed", "parameters", "n"]).iloc[-1]
        model = {name: best[name] for name in ("data", "model", "n")}
        found = rows.select(rows.read(table, self.folder), **model)
        if found.empty:
            raise self.error(table, f"holds no row of {best['model']}", "make llm")
        return found


def find_run(args: argparse.Namespace) -> Run:
    """The run that the flags select; by default the only one, else the data's own name and the main recipe."""
    models = tables.read_pretrained(args.results)
    models = models[models["seed"] == args.seed]
    for name, value in (("data", args.data_name), ("recipe", args.recipe)):
        models = models[models[name] == value] if value else models
    runs = list(models[["data", "recipe"]].drop_duplicates().itertuples(index=False, name=None))
    usual = (args.data_name or rows.data_name(args.data), args.recipe or MAIN_RECIPE)
    if len(runs) > 1 and usual not in runs:
        told = "; ".join(f"DATA_NAME={data} RECIPE={recipe}" for data, recipe in runs)
        raise UserError(f"{args.results / 'accuracy.csv'}: holds several runs; say which one is meant: {told}")
    name, recipe = runs[0] if len(runs) == 1 else usual
    return Run(args.results, args.data, name, recipe, args.seed)


# ---------------------------------------------------------------- numbers.tex


def per_cent(share: float) -> str:
    """A share in per cent, for LaTeX; -- where it is unknown."""
    return "--" if pd.isna(share) else tex(f"{share:.1%}")


def points(difference: float, sign: str = "") -> str:
    """A difference of shares in percentage points; `sign` "+" shows the sign of positive ones, too."""
    return "--" if pd.isna(difference) else rf"\ensuremath{{{100 * difference:{sign}.1f}}}"


def p_value(p: float) -> str:
    """A p-value as a LaTeX formula, with its relation: "= 0.42", "= 1.1 x 10^-63"."""
    if pd.isna(p):
        return "\\ensuremath{=}--"
    mantissa, _, exponent = f"{p:.1e}".partition("e")
    return rf"\ensuremath{{={p:.2g}}}" if p >= 0.001 else rf"\ensuremath{{={mantissa}\times10^{{{int(exponent)}}}}}"


def fisher(first: float, n: float, second: float, m: float) -> float:
    """Fisher's exact test of two shares, of n and of m questions; NaN where one is unknown."""
    right = np.array([first * n, second * m]).round()
    return np.nan if np.isnan(right).any() else stats.fisher_exact([right, [n, m] - right]).pvalue


def other_leads(alike: pd.DataFrame, this: pd.Series) -> str:
    """RoPE's lead over the vanilla model in the other runs of a recipe, on dev and on test."""
    rope, vanilla = (
        alike[alike["model"] == model].set_index(["seed", "hardware", "precision"])[["dev", "test"]]
        for model in reversed(PRETRAINED)
    )
    leads = (rope - vanilla).dropna().drop(index=[tuple(this[["seed", "hardware", "precision"]])], errors="ignore")
    told = [
        f"{points(dev, '+')} and {points(test, '+')} (seed {seed:.0f})" for (seed, *_), dev, test in leads.itertuples()
    ]
    return ", ".join(told) or "--"


def accuracies(run: Run) -> dict[str, str]:
    """Part 2: which run, and its accuracies."""
    models, macros = run.models(), {}
    for model, name in SHORT.items():
        row = models.loc[model]
        macros[f"{name}Dev"] = per_cent(row["dev"])
        macros[f"{name}Count"] = f"{row['dev'] * row['n']:.0f} of {row['n']:.0f}"
        if name in ("scratch", "vanilla", "rope"):
            macros[f"{name}Test"] = per_cent(row["test"])
    rope, vanilla = models.loc["rope, pretrained"], models.loc["vanilla, pretrained"]
    gap_p = fisher(*vanilla[["dev", "n", "test", "test_n"]])
    every = tables.read_models(run.folder)
    every = every[rows.is_current(every)]
    alike = every[(every["data"] == run.name) & (every["recipe"] == run.recipe)]  # other seeds and machines, too
    found = alike[alike["model"].isin(PRETRAINED)].groupby("model", observed=True)["dev"]
    spread = (found.max() - found.min())[found.size() > 1]
    every["gap"] = 100 * (every["original"] - every["dev"])
    reworded = every[every["model"] == REWORDED_4A]
    others, reworded = reworded[reworded["data"] != run.name], reworded.loc[reworded.index.intersection(alike.index)]
    by_rope, by_vanilla = (run.answers("analysis_questions", model)["right"].tolist() for model in reversed(PRETRAINED))
    rope_only, vanilla_only, lead_p = mcnemar(by_rope, by_vanilla)
    return macros | {
        "londonRight": macros["londonCount"].partition(" ")[0],
        "vanillaBar": tex(f"{BARS['vanilla']:.0%}"),
        "ropeBar": tex(f"{BARS['rope']:.0%}"),
        "vanillaGap": points(abs(vanilla["dev"] - vanilla["test"])),
        "vanillaGapP": p_value(gap_p),
        "ropeLead": points(rope["dev"] - vanilla["dev"], "+"),
        "ropeTestLead": points(rope["test"] - vanilla["test"], "+"),
        "ropeOnly": f"{rope_only}",
        "vanillaOnly": f"{vanilla_only}",
        "ropeLeadP": p_value(lead_p),
        "otherLeads": other_leads(alike, rope),
        "rewordedRuns": f"{len(reworded)}",
        "rewordedLow": per_cent(reworded["dev"].min()),
        "rewordedHigh": per_cent(reworded["dev"].max()),
        "gapLow": f"{reworded['gap'].min():.1f}",
        "gapHigh": f"{reworded['gap'].max():.1f}",
        "otherGapRuns": f"{len(others)}",
        "otherGaps": " to ".join(dict.fromkeys(shown(others["gap"].agg(end), "{:.1f}") for end in ("min", "max"))),
        "seedSpread": points(spread.max()),
        "dataName": {"own": "project's own", "course": "course's"}.get(run.name, f"``{tex(run.name)}''"),
        "recipe": tex(run.recipe),
        "seed": str(run.seed),
        "hardware": tex(", ".join(rope[["hardware", "precision"]])),
        "devQuestions": f"{rope['n']:.0f}",
        "testQuestions": "--" if pd.isna(rope["test_n"]) else f"{rope['test_n']:.0f}",
    }


def trainings(run: Run) -> dict[str, str]:
    """Part 2: what all trainings share, and the loss of the pretrainings."""
    trainer = settings.trainers(run.recipe, run.data)["pretraining"]
    config = trainer.config
    vanilla, rope = (
        run.rows("loss_curve", "the loss", run.training, variant=variant).set_index("step")["loss"]
        for variant in ("vanilla", "rope")
    )
    return {
        "weightDecay": f"{config.weight_decay:g}",
        "clip": f"{config.grad_norm_clip:g}",
        "warmup": f"{config.warmup_tokens:,}",
        "guessLoss": f"{np.log(trainer.model.config.vocab_size):.1f}",
        "vanillaFirstLoss": f"{vanilla.iloc[0]:.2f}",
        "vanillaLastLoss": f"{vanilla.iloc[-1]:.2f}",
        "ropeLastLoss": f"{rope.iloc[-1]:.2f}",
    }


def corruption(run: Run) -> dict[str, str]:
    """Part 2(e): how often the span of an example holds the birthplace, over one epoch of the pretraining."""
    places = read_places(run.data / settings.PAIRS)
    drawn = settings.trainers(run.recipe, run.data)["pretraining"].train_dataset
    x, _ = Batches(drawn, run.seed)[0, list(range(len(drawn)))]
    spans = ["".join(drawn.itos[i] for i in ids).split(MASK_CHAR)[2] for ids in x.tolist()]
    span_of = dict(zip(drawn.data, spans, strict=True))
    asked = [
        stands_in(places[who], span_of[own]) for who, own in own_documents(drawn.data, places).items() if own in span_of
    ]
    return {"askedPlace": per_cent(np.mean(asked) if asked else np.nan)}


def needed(found: pd.DataFrame, command: str) -> pd.DataFrame:
    """The project's own rows of an experiment. UserError: there are none."""
    if found.empty:
        raise UserError(f"{rows.RESULTS}: lacks rows that the report quotes; run `python experiments/{command}`")
    return found


def left_out(_: Run) -> dict[str, str]:
    """Part 3(a): the main recipe's vanilla model without excerpts, after one epoch, and as it is (own data)."""
    found = rows.read("accuracy")  # the project's rows, whatever run the report is about
    found = found[(found["recipe"] == MAIN_RECIPE) & (found["model"] == PRETRAINED[0]) & (found["data"] == "own")]
    change = "finetuning on the pairs alone"
    command = f"recall.py accuracy --variant vanilla --change '{change}'"
    alone = needed(found[found["change"] == change], command).iloc[0]
    found = found[(found["change"] == "") & (found["seed"] == alone["seed"])]
    return {
        "leftOutSeed": f"{alone['seed']:.0f}",
        "pairsAlone": per_cent(alone["dev"]),
        "oneEpoch": per_cent(found["dev"][found["epochs"] == 1].mean()),
        "nothingLeftOut": per_cent(found["dev"][found["epochs"].isna()].mean()),
    }


def learning(_: Run) -> dict[str, str]:
    """Part 2(f): the loss on dev birthplaces along a pretraining, from the project's rows."""
    found = experiment_tables.select_learning(rows.RESULTS)
    found = found[(found["change"] == "") & (found["epochs"] == RECIPES[MAIN_RECIPE].pretrain.max_epochs)]
    found = needed(found, "recall.py learning").set_index("epoch")["place_loss"]
    return {"placeLossFirst": f"{found.iloc[0]:.1f}", "placeLossLast": f"{found.iloc[-1]:.1f}"}


def order(run: Run) -> dict[str, str]:
    """Part 1(a): how well the next character is predicted with each kind of positions, and without any context."""
    found = needed(experiment_tables.select_positions(rows.RESULTS), "positions.py")
    found = found[(found["first"] > 32) & (found["last"] <= 64)]  # the second half of the trained window
    losses = found.groupby("positions", observed=True)["loss"].mean()
    macros = {f"{kind}Positions": f"{loss:.2f}" for kind, loss in losses.items()}
    counts = np.array([*Counter(read_text(run.data / "wiki.txt")).values()])
    return macros | {"noContext": f"{stats.entropy(counts):.2f}"}


def wordings(run: Run) -> dict[str, str]:
    """Part 4."""
    ours, llm, questions = run.models().loc[REWORDED_4A], run.llm().set_index(["prompt", "template"]), run.reworded()
    changed = questions[questions["answer"] != questions["reworded_answer"]]
    wrong = changed[changed["reworded_answer"] != changed["truth"]]
    told, bare = llm.loc["instructed"], llm.loc[("bare", "reworded")]
    reworded, hyphen = told.loc["reworded"], r"-\allowbreak{}"  # where a long name may be broken
    macros = {
        "originalWording": tex(ORIGINAL.replace("NAME", "…")),
        "rewordedWording": tex(REWORDED.replace("NAME", "…")),
        "lostCount": f"{ours['only_original']:.0f}",
        "wonCount": f"{ours['only_reworded']:.0f}",
        "pValue": p_value(ours["p_mcnemar"]),
        "changedCount": f"{len(changed)}",
        "changedWrong": f"{len(wrong)}",
        "changedTrain": f"{wrong['reworded_answer'].isin(read_places(run.data / settings.PAIRS).values()).sum()}",
        "changedHolds": f"{sum(map(str.__contains__, wrong['reworded_answer'], wrong['truth']))}",
        "parameters": f"{ours['parameters']:,.0f}",
        "llmName": rf"\code{{{tex(reworded['model']).replace('-', hyphen)}}}",
        "llmParameters": f"{reworded['parameters']:,.0f}",
        "instructions": tex(PROMPTS["instructed"].replace("{question}", ORIGINAL.replace("NAME", "…"))),
        "ropeChange": points(ours["dev"] - ours["original"], "+"),
        "llmChange": points(reworded["normalised"] - told.loc["original", "normalised"], "+"),
        "llmAfterDrop": f"{told.loc['original', 'normalised'] * reworded['n'] * ours['dev'] / ours['original']:.0f}",
        "llmLost": f"{reworded['only_original']:.0f}",
        "llmWon": f"{reworded['only_reworded']:.0f}",
        "llmP": p_value(reworded["p_mcnemar"]),
        "bareLost": f"{bare['only_original']:.0f}",
        "bareWon": f"{bare['only_reworded']:.0f}",
        "bareP": p_value(bare["p_mcnemar"]),
    }
    for (prompt, wording), replies in run.llm("modern_llm_replies").groupby(["prompt", "template"]):
        name = {"bare": "llm", "instructed": "instructed"}[prompt], {"original": "", "reworded": "Reworded"}[wording]
        macros["None".join(name)] = f"{(replies['place'] == '').sum()}"
        macros["Bare".join(name)] = f"{(replies['reply'] == replies['place']).sum()}"
        macros["Length".join(name)] = f"{replies['reply'].str.len().mean():.0f}"
        if prompt == "bare":
            macros["Fictional".join(name)] = f"{replies['reply'].str.contains('fictional').sum()}"
            macros["Cut".join(name)] = per_cent(1 - replies["reply"].str.contains(r"[.!?][\"')]*$").mean())
        elif wording == "original":
            macros["instructedCity"] = f"{replies['reply'].str.startswith('The city').sum()}"
            macros["instructedBorn"] = f"{replies['reply'].str.contains('was born in').sum()}"
        else:
            macros["instructedBirthplaceReworded"] = f"{replies['reply'].str.startswith('The birthplace of').sum()}"
    for wording in WORDINGS:
        macros[f"bare{wording.title()}Exact"] = per_cent(llm.loc[("bare", wording), "exact"])
        macros[f"bare{wording.title()}Read"] = per_cent(llm.loc[("bare", wording), "normalised"])
        macros[f"instructed{wording.title()}Read"] = per_cent(told.loc[wording, "normalised"])
    return macros


def confidence(run: Run) -> dict[str, str]:
    """Parts 2(d) and 3(b): what the model without pretraining answers, and how sure the vanilla model is."""
    unpretrained = run.answers("analysis_questions", MODELS[0])
    guesses = unpretrained["answer"].value_counts()
    row, questions = run.answers().iloc[0], run.answers("analysis_questions")
    surest = experiment_tables.surest_answers(questions, 100)["right"].tolist()
    first_wrong = surest.index(False) if False in surest else len(surest)
    wrong = questions[~questions["right"]]
    own = own_documents(read_text(run.data / "wiki.txt").split("\n"), wrong["name"])
    told = sum(stands_in(truth, own[name]) for name, truth in wrong[["name", "truth"]].itertuples(index=False))
    half, quarter = (experiment_tables.surest_answers(questions, share) for share in (50, 25))
    auroc = row[["auroc", "auroc_low", "auroc_high"]]
    return {
        "vanillaWrong": str(len(wrong)),
        "vanillaRight": str(sum(surest)),
        "firstWrong": str(first_wrong + 1),
        "withheldRight": str(sum(surest) - first_wrong),
        "misread": str(wrong["in_document"].sum()),
        "wrongTold": str(told),
        "wrongUntold": str(len(wrong) - told),
        "inTrainWrong": str(wrong["in_train"].sum()),
        "auroc": "--" if auroc.isna().any() else "{:.2f} (95\\,\\%: {:.2f} to {:.2f})".format(*auroc),
        "surestHalf": f"{half['right'].sum()} of {len(half)}",
        "surestQuarter": f"{quarter['right'].sum()} of {len(quarter)}",
        "scratchLondons": f"{guesses.get('London', 0)}",
        "scratchLondonsRight": f"{(unpretrained['right'] & (unpretrained['answer'] == 'London')).sum()}",
        "scratchPlaces": frequent(guesses),
    }


def frequent(counts: pd.Series) -> str:
    """The three most frequent answers, with their counts."""
    return tex(", ".join(f"{place} ({n})" for place, n in counts.head(3).items()))


def strategy(run: Run) -> dict[str, str]:
    """Part 3(c), about the vanilla model."""
    row, namesakes = run.answers().iloc[0], run.answers("analysis_namesakes")
    invented = run.answers("analysis_invented").merge(read_invented(), how="left", on="name")
    macros = {
        "inventedCount": f"{row['invented_n']:.0f}",
        "inventedInTrain": per_cent(row["invented_in_train"] / row["invented_n"]),
        "inventedPlaces": frequent(invented["answer"].value_counts()),
    }
    for language, places in (
        ("Polish", ("Krakow", "Warsaw")),
        ("Serbian", ("Belgrade",)),
        ("Japanese", ("Tokyo", "Osaka")),
    ):
        answers = invented["answer"][invented["language"] == language]
        macros[f"{language.lower()}Names"] = f"{answers.isin(places).sum()} of {len(answers)}"
    shuffle = np.random.default_rng(0).permutation
    chance = [pairs_alike(invented["language"], shuffle(invented["answer"])) for _ in range(1000)]
    macros["languagePairs"] = f"{pairs_alike(invented['language'], invented['answer'])}"
    macros["languageChance"] = "{:.0f} (95\\,\\%: {:.0f} to {:.0f})".format(
        np.mean(chance), *np.percentile(chance, [2.5, 97.5])
    )
    mixed = namesakes.set_index("same")
    for name, same in (("surname", "surname"), ("firstName", "first name")):
        found = mixed.loc[same]
        macros[f"{name}Share"] = tex(percent(found["hits"] / found["n"], found["n"]))
        low, high = 100 * found["chance_low"], 100 * found["chance_high"]
        macros[f"{name}Chance"] = tex(f"{found['chance']:.1%} ({low:.1f} to {high:.1f})")
    return macros | {"mixedCount": f"{mixed['n'].iloc[0]:.0f}"}


def pairs_alike(languages: pd.Series, answers: Iterable[str]) -> int:
    """How many pairs of names of one language have the same answer."""
    counts = languages.to_frame().assign(answer=answers).value_counts()
    return int((counts * (counts - 1) // 2).sum())


def texts(run: Run) -> dict[str, str]:
    """Counts from the data files."""
    documents = [line.lower() for line in read_text(run.data / "wiki.txt").split("\n") if line.strip()]
    counts = {name: sum(words in line for line in documents) for name, words in PHRASES.items()}
    counts |= {"documents": len(documents)}
    counts |= {"pairs": len(read_text(run.data / settings.PAIRS).rstrip("\n").split("\n"))}
    return {name: f"{count:,}" for name, count in counts.items()}


PARTS: tuple[Callable[[Run], dict[str, str]], ...]
PARTS = (accuracies, trainings, corruption, learning, order, left_out, wordings, confidence, strategy, texts)


# ---------------------------------------------------------------- tables


def accuracy_table(run: Run) -> str:
    """The handout's models."""
    models = tables.grouped(run.models().reset_index(drop=True), "model")
    return latex(tables.table(models, ("model", "dev (95 %)", "test (95 %)", "minutes")), "lllr")


def other_table(run: Run) -> str:
    """The pretrained models of all other runs, and this run's where it has further seeds."""
    models = tables.read_pretrained(run.folder)
    groups = tables.grouped(models, "model", "data", "recipe", "hardware", "precision")
    this = [(run.name, run.recipe, run.seed)]
    others = [group for group in groups if this != list(group[["data", "recipe", "seed"]].itertuples(False, None))]
    columns = ("model", "data", "recipe", "seeds", "dev (95 %)", "range", "test (95 %)")
    return latex(tables.table(others, columns), "lllllll")


def listed(found: pd.DataFrame, heads: dict[str, str], columns: str) -> str:
    """Some columns of rows, with other heads."""
    return latex(found[[*heads]].rename(columns=heads), columns)


def example_table(run: Run) -> str:
    """The most confident wrong answers of the vanilla model, each with the right one nearest in confidence."""
    questions = run.answers("analysis_questions").sort_values("confidence", ascending=False)
    right, shown = questions[questions["right"]], questions[:0]
    for i, wrong in questions[~questions["right"]].head(EXAMPLES).iterrows():
        nearest = (right["confidence"] - wrong["confidence"]).abs().sort_values(kind="stable").index[:1]
        shown, right = pd.concat([shown, questions.loc[[i, *nearest]]]), right.drop(nearest)
    shown = shown.assign(kind=shown["right"].map({True: "right", False: "wrong"}))
    shown["confidence"] = shown["confidence"].map("{:.2f}".format)
    heads = {"name": "person", "answer": "answer", "truth": "birthplace", "confidence": "confidence", "kind": ""}
    return listed(shown, heads, "lllrl")


def changed_table(run: Run) -> str:
    """Answers of the RoPE model that the other wording changes: the first that become wrong, and the first right."""
    asked = run.reworded()
    right, reworded = (asked[name] == asked["truth"] for name in ("answer", "reworded_answer"))
    shown = pd.concat([asked[right & ~reworded].head(EXAMPLES), asked[~right & reworded].head(1)])
    heads = {"name": "person", "answer": "original wording", "reworded_answer": "reworded", "truth": "birthplace"}
    return listed(shown, heads, "llll")


def reply_table(run: Run) -> str:
    """Replies of the LLM to the bare question: the first with the right place, with a wrong one, with none."""
    replies = run.llm("modern_llm_replies")
    replies = replies[(replies["prompt"] == "bare") & (replies["template"] == "original")]
    right, place = replies["normalised"], replies["place"] != ""
    shown = pd.concat([replies[kind].head(1) for kind in (right, ~right & place, ~place)])
    shown["reply"] = [textwrap.shorten(reply, LONGEST_REPLY, placeholder=" …") for reply in shown["reply"]]
    shown["place"] = shown["place"].replace("", "none")
    heads = {"name": "person", "reply": "reply", "place": "place read", "truth": "birthplace"}
    return listed(shown, heads, "lp{7.6cm}ll")


def wording_table(run: Run) -> str:
    """Our model and the LLM, a line a wording."""
    ours = tables.by_wording(run.models().loc[[REWORDED_4A]]).assign(model="our RoPE model")
    llm = run.llm().assign(model="LLM")
    lines = []
    for pair in tables.grouped(pd.concat([ours, llm]), "model", "prompt"):
        counts = pair.set_index("template").loc["reworded"]
        for row in pair.to_dict("records"):
            shares = [percent(row[kind], row["n"]) for kind in SHARES]
            only = f"{counts['only_' + row['template']]:.0f}"
            lines.append([row["model"], tables.ASKED[row["prompt"]], row["template"], *shares, only])
    heads = ["model", "asked", "wording", *SHARES.values(), "in this wording only"]
    return latex(pd.DataFrame(lines, columns=heads), "lllllr")


TABLES = {
    "accuracy": accuracy_table,
    "settings": lambda run: latex(settings.table(run.recipe, run.data), "llrrrrrrlr"),  # beside the handout's
    "others": other_table,
    "examples": example_table,
    "changed": changed_table,
    "replies": reply_table,
    "wordings": wording_table,
}


# ---------------------------------------------------------------- all of it


def printed(script: str, main: Callable[[list[str]], int], data: Path) -> str:
    """A program of part (e) as typed, and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main([*shlex.split(script)[1:], "--pretrain_corpus_path", str(data / "wiki.txt")])
    return f"$ python {script}\n{said.getvalue().rstrip()}\n"


def main(argv: list[str] | None = None) -> int:
    """Write everything that report/report.tex reads."""
    about = "Write the numbers, tables and figures of the report."
    parser = argparse.ArgumentParser(description=about, parents=[rows.flags()])
    parser.add_argument("--recipe", help=f"of which recipe (default: {MAIN_RECIPE}, or the only one)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=rows.ROOT / "expt" / "report", help="default: expt/report")
    args = parser.parse_args(argv)
    run = find_run(args)
    macros = {name: value for part in PARTS for name, value in part(run).items()}
    written = {f"{name}.tex": table(run) for name, table in TABLES.items()}
    written["numbers.tex"] = "".join(f"\\newcommand{{\\{name}}}{{{value}}}\n" for name, value in macros.items())
    example = CharCorruptionDataset
    for code in (CausalSelfAttention.forward, example.__getitem__, example.truncate, example.choose_span):
        written[f"{code.__name__.strip('_')}.py"] = textwrap.dedent(inspect.getsource(code))
    positions = figures.positions(rows.RESULTS)
    positions.set_size_inches(5.4, 2.8)  # wide and low
    drawn = {
        "corruption": figures.console(printed("src/dataset.py charcorruption", dataset.main, run.data)),
        "sinusoids": figures.sinusoids(),
        "positions": positions,
        "loss_curve": figures.loss_curve(run.rows("loss_curve", "the loss", run.training)),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        write_text(args.out / name, text)
    for name, figure in drawn.items():
        figures.save(figure, args.out / f"{name}.pdf")
    print(f"{args.out}: data {run.name}, recipe {run.recipe}, seed {run.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))
