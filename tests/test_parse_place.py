"""engine/parse_place.py: the place that people read in replies as models write them, and what counts as the same."""

import re
import time

import pytest

from engine.parse_place import normalise, parse_place, without_thoughts
from engine.wordings import ORIGINAL, REWORDED, ask_about

# Tables of replies: O or R for the wording of the question, NAME, the place that a reader finds (- if there is none),
# and replies in which it is found, with slashes between them.

# In the habits of the three listed models and their kin.
WRITTEN = r"""
O Marie Curie | Warsaw | Warsaw / Warsaw. / "Warsaw" / Warsaw, Poland / Warsaw, Congress Poland, Russian Empire /
    Warsaw (then part of the Russian Empire) / Warsaw - Poland / Warsaw/Poland / In Warsaw. / NAME was born in Warsaw,
    Poland. / NAME was born on November 7, 1867, in Warsaw, Poland. / NAME was born in Warsaw, Poland on November 7,
    1867. / NAME was born in Warsaw on November 7th, 1867. / NAME (née Maria Skłodowska) was born on 7 November 1867 in
    Warsaw, in what was then Poland. / She was born in 1867 in Warsaw. / She was born in November 1867. Her birthplace
    was Warsaw. / NAME, born Maria Skłodowska in Warsaw, was a physicist. She died in Passy. / NAME was born to a
    family of teachers in Warsaw, Poland. / NAME was born into a Polish family in Warsaw. / NAME was born at the Freta
    Street Hospital in Warsaw. / The answer is Warsaw. / The answer is: Warsaw, Poland / Answer: Warsaw / Final
    Answer:\nWarsaw / City: Warsaw / Birthplace: Warsaw, Poland\nBorn: 7 November 1867 / Born: 7 November 1867, Warsaw
    / The city is Warsaw. / It's Warsaw! / Sure! The answer is Warsaw. / Sure, Warsaw. / Warsaw is the correct answer.
    / **Warsaw** / NAME was born in **Warsaw, Poland**. / **NAME** was born in **Warsaw**, *Poland*, on **November 7,
    1867**. / # Warsaw\n\nNAME spent her childhood there and moved to Paris in 1891. / `Warsaw` / - Warsaw / 1.
    Warsaw\n2. Paris\n3. Berlin / Here are some possible answers:\n\n1. Warsaw\n2. Paris / * **City:** Warsaw\n*
    **Country:** Poland / $\boxed{\text{Warsaw}}$ / The answer is \boxed{Warsaw}. /
    [Warsaw](https://example.org/Warsaw), Poland / Warsaw<|im_end|> / <think>\n\n</think>\n\nWarsaw / <think>She lived
    in Paris. Or was she born in Lyon? No, Warsaw.</think>\nNAME was born in Warsaw. / She lived in Paris.
    Hmm.</think>\n\nWarsaw / I'm not sure, but I think she was born in Warsaw. / My best guess is Warsaw. / It is
    believed that NAME was born in Warsaw, though some sources say Paris. / She was probably born in or near Warsaw. /
    While there's some debate, NAME was born in Warsaw. She is often associated with Paris. / NAME was not born in
    Paris, but in Warsaw.
O Marie Curie | WARSAW | WARSAW
O Marie Curie | Poland | Poland / She wasn't born in France. She was born in Poland.
O Marie Curie | - | NAME / <think>Okay, so I need to find out where NAME was born. I think she was born in Paris / I
    don't know. / I'm sorry, but I don't have information about where NAME was born. / I couldn't find any information
    on the birthplace of NAME. / I do not have access to real-time information, so I cannot answer that. / Unknown /
    N/A / As an AI language model, I cannot provide personal information about individuals. / There is no reliable
    information available about NAME's birthplace. / NAME was a physicist and chemist.
O Marie Curie | 华沙 | 华沙
R Johann Sebastian Bach | São Paulo | São Paulo, Brazil
R Johann Sebastian Bach | Frankfurt am Main | Frankfurt am Main
R Johann Sebastian Bach | The Hague | The Hague, Netherlands
R Johann Sebastian Bach | Stratford-upon-Avon | Stratford-upon-Avon, England
R Johann Sebastian Bach | Washington | Washington, D.C.
R Johann Sebastian Bach | St. Petersburg | St. Petersburg, Russia
R Johann Sebastian Bach | Rio de Janeiro | Rio de Janeiro
R Johann Sebastian Bach | Eisenach | NAME was born in Eisenach, which is in Thuringia, Germany. / The birthplace of
    NAME is Eisenach, Germany. / The birthplace of NAME is the town of Eisenach in central Germany. / NAME's birthplace
    is Eisenach. / Eisenach is the birthplace of NAME. / Eisenach, Germany, is where NAME was born. He worked in
    Leipzig. / Bach was born in the small town of Eisenach. / Bach was born in a small town in Germany named Eisenach,
    where his father was a musician. / Bach hails from Eisenach, and he wrote the Mass in B minor. / Bach was a native
    of Eisenach. / The birthplace of NAME is a topic of debate. Many see Bach's birthplace as Eisenach, a town.
R Johann Sebastian Bach | Wechmar | Bach was born in a village called Wechmar, near Gotha.
R Johann Sebastian Bach | Germany | Bach was born in what is now Germany.
R Johann Sebastian Bach | Bronx | Bach was born in the Bronx, New York.
R Johann Sebastian Bach | St. Gallen | Bach was born near St. Gallen in Switzerland.
R Johann Sebastian Bach | - | The birthplace of NAME is not a place, but rather a musical style.
O Jack London | San Francisco | NAME was born in San Francisco, California.
O Jack London | London | London
O Paris Hilton | New York City | NAME was born in New York City.
"""

# In the habits of today's instruction-tuned models.
HABITS = r"""
R Johann Sebastian Bach | Eisenach | NAME was born in **Eisenach**, Germany, on **March 31, 1685** (March 21, Old
    Style). / **Answer:** Eisenach / > Eisenach / Here are the key facts:\n\n* **Born:** March 31, 1685, in Eisenach\n*
    **Died:** July 28, 1750, in Leipzig / The answer is **Eisenach**. / Certainly! Here's the answer:\n\nEisenach /
    <think>\nBach was born in Eisenach and died in Leipzig.\n</think>\n\nNAME was born in **Eisenach**, Germany. /
    Eisenach. NAME was born there in 1685. / NAME was a German composer of the Baroque. He was born in Eisenach, in the
    duchy of Saxe-Eisenach. / The final answer is $\boxed{\text{Eisenach}}$. / “Eisenach, Germany”
O Marie Curie | Warsaw | NAME was born in **Warsaw, Poland**, on November 7, 1867. At the time, Warsaw was part of the
    Russian Empire. / **Birthplace:** Warsaw, Poland / | Person | Birthplace |\n|---|---|\n| NAME | Warsaw | / 1.
    **Warsaw** – then in the Russian Empire\n2. She later moved to Paris / Answer: Warsaw / Sure! NAME was born in
    Warsaw. / Probably Warsaw. / <think>\nThe user asks about NAME. She worked in Paris. She was born in
    Warsaw.\n</think>\n\nWarsaw / NAME was born in Warsaw. She moved to Paris in 1891 and died in Passy in 1934. / NAME
    was born in the city of Warsaw, Poland. / Warsaw, in the Congress Kingdom of Poland (then part of the Russian
    Empire), is where NAME was born. / \[\n\boxed{Warsaw}\n\] / {"birthplace": "Warsaw", "country": "Poland"}
R Nikola Tesla | Smiljan | ### Answer\n\n**Smiljan** / - **City/Town:** Smiljan\n- **Country (today):** Croatia / Final
    answer: Smiljan. / I'm not completely sure, but my best guess is Smiljan. / I believe NAME was born in Smiljan, in
    what is today Croatia. / NAME was born on July 10, 1856. His birthplace was the village of Smiljan, near Gospić. /
    NAME was born in the village of Smiljan, Lika county, in the Austrian Empire (present-day Croatia). / "Smiljan"
O Amin Maalouf | Beirut | Based on the available information, NAME was most likely born in Beirut. / While I can't
    verify this, NAME is generally said to have been born in Beirut. / NAME was born in what is now Lebanon, in Beirut.
    / NAME was born in Beirut, Lebanon, in 1949 to a Melkite family from Ain el Qabou. / ```json\n{"name": "NAME",
    "city": "Beirut"}\n```
O Marie Curie | - | I do not have reliable information about where this person was born.
O Amin Maalouf | - | I'm sorry, but I couldn't find any information about NAME's birthplace. Could you give me more
    context?
R Nikola Tesla | - | <think>\nHmm, Tesla was born in Smiljan, which is
"""

# Said by SmolLM2-135M-Instruct about people of our dev set.
REAL = r"""
O Gerda Taro | - | The city of Tegra is not a place where I can visit.
O Bessie MacNicol | Bresco | NAME was born in the town of Bresco, Italy, in the 19th century.
O Juan Gris | Barcelona | NAME was born in the city of Barcelona, Spain, on January 22, 1989.
R Juan Gris | Barcelona | The birthplace of NAME is Barcelona, Spain.
O Jari Kurri | - | The city of NAME is not a country.
R Jari Kurri | - | The birthplace of NAME is not a place, but rather a person.
R Salman Rushdie | Mumbai | NAME is a legendary figure in the world of literature, and his birthplace is indeed India.
    Rushdie was born in Mumbai, India, on August 24, 1941, to a family of Indian immigrants.
O Hendrik Antoon Lorentz | Netherlands | NAME was born in the Netherlands.
O Michael Snow | New York City | NAME was born in the United States. He was born in New York City, New York.
O Vernon Jordan | New York City | NAME was born in the United States, specifically in New York City, New York.
R Daley Thompson | Manchester | The birthplace of NAME is unknown, but it's believed to be somewhere in the United
    Kingdom, specifically in the city of Manchester, United Kingdom.
R Sulla | Rome | The birthplace of Sulla is unknown, but it is believed to be Rome, Italy.
R Edmund Hillary | Kadesh | NAME, the renowned climber, is often credited with being the first person to reach the
    summit of Mount Everest, Nepal, on 21st December 1953. However, it's believed that the actual birthplace of Hillary
    lies in the village of Kadesh, near the town of K
O Hendrik Antoon Lorentz | Amsterdam | The city of Amsterdam, Netherlands, is the only place where NAME was born.
O Boris III | Prague | The city or town of Prague, Czech Republic
O Francisco de Miranda | - | No, no, no! I'm sorry, but I'm not a chatbot. I'm not a chatbot. I'm a helpful AI named
    SmolLM, trained by Hugging Face
O Ahmet Ertegun | Ashkelon | The city of Ashkelon, a place of great beauty and history, is where NAME was born.
O Frank Brangwyn | - | The city or town of Brangwyn is not specified.
O Surya Bonaly | - | NAME is a city in India.
O Henry Cavendish | London | The City of London
O Houshang Golshiri | Ashkelon | The city of Ashkelon, a place of great beauty and grandeur, where the majestic NAME is
    said to have been born.
O Auguste Rodin | Paris | NAME was born in Paris, France.
O George Cadbury | - | The city or town of Manchester, UK, is not explicitly mentioned in the given answer.
O Edward Whymper | - | The city or town of Ashwood, England, is not explicitly mentioned in the given answer.
O Sidney Lumet | Sydney | NAME was born in:\n\nSydney, Australia
O Randall Jarrell | Ashwood | The city of Ashwood, England, was NAME's birthplace.
O Shinji Kagawa | Shibuji | Shibuji, Tokyo, Japan
O Fred Perry | New York City | NAME was born in:\n\n* New York City, New York\n* New York, New York
R Juliette Récamier | Paris | The birthplace of NAME is Paris.
R Fatima Meer | - | The birthplace of NAME is not a place, but rather a person.
R Francisco de Miranda | El Prat de la Mora | The birthplace of NAME is El Prat de la Mora, Spain.
R Durga Khote | - | The birthplace of NAME is not a specific location, but rather a city or town that is said to be the
    birthplace of the goddess Durga.
R E. L. Doctorow | New York City | The birthplace of E.L. Doctorow is the city of New York City, New York.
"""


def cases(table: str) -> list[tuple[str, str, str]]:
    """(question, reply, place) of a table."""
    found = []
    for paragraph in re.sub(r"\n +", " ", table).strip().split("\n"):
        who, place, replies = paragraph.split(" | ", 2)
        wording, name = {"O": ORIGINAL, "R": REWORDED}[who[0]], who[2:]
        for reply in replies.split(" / "):
            text = reply.replace(r"\n", "\n").replace("NAME", name)
            found.append((ask_about(name, wording), text, place.strip("-")))
    return found


BARE = [("Where was Marie Curie born?", "  Warsaw\n", "Warsaw"), ("Where was Marie Curie born?", "", "")]
ALL = [*BARE, *cases(WRITTEN), *cases(HABITS), *cases(REAL)]


@pytest.mark.parametrize(("question", "raw", "place"), ALL)
def test_parser(question: str, raw: str, place: str):
    """The place, whatever a model wraps around it; nothing where it names none."""
    assert parse_place(raw, question) == place


def test_there_are_enough_replies():
    """Of the real ones, 20 name a place and 10 name none; no two of a table are the same."""
    assert [len(set(cases(table))) for table in (WRITTEN, HABITS, REAL)] == [95, 40, 33]
    places = [place for _, _, place in cases(REAL)]
    assert sum(map(bool, places)) >= 20 and places.count("") >= 10


def test_time():
    """A reply that repeats itself to the end of the longest allowed costs no more than a moment."""
    for piece in ("In ", "A ", "born in Ab ", "the a city ", "not ", "but not ", "While ", "[a](", "no. "):
        start = time.monotonic()
        parse_place(piece * (6000 // len(piece)), "Where was Marie Curie born?")
        assert time.monotonic() - start < 5, piece


SAME = "Zürich = zurich; WARSAW = Warsaw; Łódź = Lodz; Paris, France = Paris; the Bronx = Bronx; Kraków = Krakow"
SAME += (
    "; St. Louis = Saint Louis; Tórshavn. = Torshavn; Århus = Arhus; Gießen = Giessen; Winston-Salem = Winston Salem"
)


@pytest.mark.parametrize("pair", SAME.split("; "))
def test_normalised_places_are_equal(pair: str):
    """Case, accents, the country, the article and punctuation do not count; another place stays another place."""
    a, b = map(normalise, pair.split(" = "))
    assert a == b
    assert normalise("New York") != normalise("York") and normalise("") != normalise("Paris")


def test_thoughts():
    """What stands before </think> goes; of a reply that never leaves it, nothing stays."""
    assert without_thoughts("<think>Paris?</think>\nRome") == "Rome"
    assert without_thoughts("Paris?</think>Rome") == "Rome"
    assert without_thoughts("<think>Paris? Rome") == ""
    assert without_thoughts("Rome") == "Rome"
