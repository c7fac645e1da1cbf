"""parse_place.py: the place that people read in replies as models write them, and what counts as the same place."""

from __future__ import annotations

import pytest

from parse_place import normalise, parse_place, without_thoughts

CURIE = "Where was Marie Curie born?"
BACH = "What is the birthplace of Johann Sebastian Bach?"

# (question, raw reply, expected place), written in the habits of the three listed models and their kin.
WRITTEN = [
    # the place alone
    (CURIE, "Warsaw", "Warsaw"),
    (CURIE, "Warsaw.", "Warsaw"),
    (CURIE, "  Warsaw\n", "Warsaw"),
    (CURIE, "WARSAW", "WARSAW"),
    (CURIE, "warsaw", "Warsaw"),
    (CURIE, '"Warsaw"', "Warsaw"),
    (CURIE, "Warsaw, Poland", "Warsaw"),
    (CURIE, "Warsaw, Congress Poland, Russian Empire", "Warsaw"),
    (CURIE, "Warsaw (then part of the Russian Empire)", "Warsaw"),
    (CURIE, "Warsaw - Poland", "Warsaw"),
    (CURIE, "Warsaw/Poland", "Warsaw"),
    (CURIE, "In Warsaw.", "Warsaw"),
    (CURIE, "Poland", "Poland"),
    (CURIE, "Marie Curie", ""),
    (CURIE, "华沙", "华沙"),
    (BACH, "São Paulo, Brazil", "São Paulo"),
    (BACH, "Frankfurt am Main", "Frankfurt am Main"),
    (BACH, "The Hague, Netherlands", "The Hague"),
    (BACH, "Stratford-upon-Avon, England", "Stratford-upon-Avon"),
    (BACH, "Washington, D.C.", "Washington"),
    (BACH, "St. Petersburg, Russia", "St. Petersburg"),
    (BACH, "Rio de Janeiro", "Rio de Janeiro"),
    # full sentences
    (CURIE, "Marie Curie was born in Warsaw, Poland.", "Warsaw"),
    (CURIE, "Marie Curie was born on November 7, 1867, in Warsaw, Poland.", "Warsaw"),
    (CURIE, "Marie Curie was born in Warsaw, Poland on November 7, 1867.", "Warsaw"),
    (CURIE, "Marie Curie was born in Warsaw on November 7th, 1867.", "Warsaw"),
    (
        CURIE,
        "Marie Curie (née Maria Skłodowska) was born on 7 November 1867 in Warsaw, in what was then Poland.",
        "Warsaw",
    ),
    (CURIE, "She was born in 1867 in Warsaw.", "Warsaw"),
    (CURIE, "She was born in November 1867. Her birthplace was Warsaw.", "Warsaw"),
    (CURIE, "Marie Curie, born Maria Skłodowska in Warsaw, was a physicist. She died in Passy.", "Warsaw"),
    (CURIE, "Marie Curie was born to a family of teachers in Warsaw, Poland.", "Warsaw"),
    (CURIE, "Marie Curie was born into a Polish family in Warsaw.", "Warsaw"),
    (CURIE, "Marie Curie was born at the Freta Street Hospital in Warsaw.", "Warsaw"),
    (CURIE, "marie curie was born in warsaw, poland.", "Warsaw"),
    (BACH, "Johann Sebastian Bach was born in Eisenach, which is in Thuringia, Germany.", "Eisenach"),
    (BACH, "The birthplace of Johann Sebastian Bach is Eisenach, Germany.", "Eisenach"),
    (BACH, "The birthplace of Johann Sebastian Bach is the town of Eisenach in central Germany.", "Eisenach"),
    (BACH, "Johann Sebastian Bach's birthplace is Eisenach.", "Eisenach"),
    (BACH, "Eisenach is the birthplace of Johann Sebastian Bach.", "Eisenach"),
    (BACH, "Eisenach, Germany, is where Johann Sebastian Bach was born. He worked in Leipzig.", "Eisenach"),
    (BACH, "Bach was born in the small town of Eisenach.", "Eisenach"),
    (BACH, "Bach was born in a small town in Germany named Eisenach, where his father was a musician.", "Eisenach"),
    (BACH, "Bach was born in a village called Wechmar, near Gotha.", "Wechmar"),
    (BACH, "Bach was born in what is now Germany.", "Germany"),
    (BACH, "Bach was born in the Bronx, New York.", "Bronx"),
    (BACH, "Bach was born near St. Gallen in Switzerland.", "St. Gallen"),
    (BACH, "Bach hails from Eisenach, and he wrote the Mass in B minor.", "Eisenach"),
    (BACH, "Bach was a native of Eisenach.", "Eisenach"),
    # labels and "the answer is"
    (CURIE, "The answer is Warsaw.", "Warsaw"),
    (CURIE, "The answer is: Warsaw, Poland", "Warsaw"),
    (CURIE, "Answer: Warsaw", "Warsaw"),
    (CURIE, "Final Answer:\nWarsaw", "Warsaw"),
    (CURIE, "City: Warsaw", "Warsaw"),
    (CURIE, "Birthplace: Warsaw, Poland\nBorn: 7 November 1867", "Warsaw"),
    (CURIE, "Born: 7 November 1867, Warsaw", "Warsaw"),
    (CURIE, "The city is Warsaw.", "Warsaw"),
    (CURIE, "It's Warsaw!", "Warsaw"),
    (CURIE, "Sure! The answer is Warsaw.", "Warsaw"),
    (CURIE, "Sure, Warsaw.", "Warsaw"),
    (CURIE, "Warsaw is the correct answer.", "Warsaw"),
    # markdown, lists, boxes, special tokens
    (CURIE, "**Warsaw**", "Warsaw"),
    (CURIE, "Marie Curie was born in **Warsaw, Poland**.", "Warsaw"),
    (CURIE, "**Marie Curie** was born in **Warsaw**, *Poland*, on **November 7, 1867**.", "Warsaw"),
    (CURIE, "# Warsaw\n\nMarie Curie spent her childhood there and moved to Paris in 1891.", "Warsaw"),
    (CURIE, "`Warsaw`", "Warsaw"),
    (CURIE, "- Warsaw", "Warsaw"),
    (CURIE, "1. Warsaw\n2. Paris\n3. Berlin", "Warsaw"),
    (CURIE, "Here are some possible answers:\n\n1. Warsaw\n2. Paris", "Warsaw"),
    (CURIE, "* **City:** Warsaw\n* **Country:** Poland", "Warsaw"),
    (CURIE, "$\\boxed{\\text{Warsaw}}$", "Warsaw"),
    (CURIE, "The answer is \\boxed{Warsaw}.", "Warsaw"),
    (CURIE, "[Warsaw](https://example.org/Warsaw), Poland", "Warsaw"),
    (CURIE, "Warsaw<|im_end|>", "Warsaw"),
    # thoughts
    (CURIE, "<think>\n\n</think>\n\nWarsaw", "Warsaw"),
    (
        CURIE,
        "<think>She lived in Paris. Or was she born in Lyon? No, Warsaw.</think>\nMarie Curie was born in Warsaw.",
        "Warsaw",
    ),
    (CURIE, "She lived in Paris. Hmm.</think>\n\nWarsaw", "Warsaw"),
    (CURIE, "<think>Okay, so I need to find out where Marie Curie was born. I think she was born in Paris", ""),
    # refusals
    (CURIE, "I don't know.", ""),
    (CURIE, "I'm sorry, but I don't have information about where Marie Curie was born.", ""),
    (CURIE, "I couldn't find any information on the birthplace of Marie Curie.", ""),
    (CURIE, "I do not have access to real-time information, so I cannot answer that.", ""),
    (CURIE, "Unknown", ""),
    (CURIE, "N/A", ""),
    (CURIE, "As an AI language model, I cannot provide personal information about individuals.", ""),
    (CURIE, "There is no reliable information available about Marie Curie's birthplace.", ""),
    (CURIE, "", ""),
    (CURIE, "Marie Curie was a physicist and chemist.", ""),
    (BACH, "The birthplace of Johann Sebastian Bach is not a place, but rather a musical style.", ""),
    # hedges and negations
    (CURIE, "I'm not sure, but I think she was born in Warsaw.", "Warsaw"),
    (CURIE, "My best guess is Warsaw.", "Warsaw"),
    (CURIE, "It is believed that Marie Curie was born in Warsaw, though some sources say Paris.", "Warsaw"),
    (CURIE, "She was probably born in or near Warsaw.", "Warsaw"),
    (CURIE, "While there's some debate, Marie Curie was born in Warsaw. She is often associated with Paris.", "Warsaw"),
    (CURIE, "Marie Curie was not born in Paris, but in Warsaw.", "Warsaw"),
    (CURIE, "She wasn't born in France. She was born in Poland.", "Poland"),
    (
        BACH,
        "The birthplace of Johann Sebastian Bach is a topic of debate. Many see Bach's birthplace as Eisenach, a town.",
        "Eisenach",
    ),
    # names that are places
    ("Where was Jack London born?", "Jack London was born in San Francisco, California.", "San Francisco"),
    ("Where was Jack London born?", "London", "London"),
    ("Where was Paris Hilton born?", "Paris Hilton was born in New York City.", "New York City"),
]

# Replies of SmolLM2-135M-Instruct to questions of our dev set, with the place that a reader finds in them: the town
# where the reply names one, of rival claims the one that is called most accepted, else the first; never the
# person's name.
REAL = [
    ("Where was Gerda Taro born?", "The city of Tegra is not a place where I can visit.", ""),
    (
        "Where was Bessie MacNicol born?",
        "Bessie MacNicol was born in the town of Bresco, Italy, in the 19th century.",
        "Bresco",
    ),
    (
        "Where was Juan Gris born?",
        "Juan Gris was born in the city of Barcelona, Spain, on January 22, 1989.",
        "Barcelona",
    ),
    ("Where was Juan Gris born?", "The city of Barcelona, Spain.", "Barcelona"),
    ("What is the birthplace of Juan Gris?", "The birthplace of Juan Gris is Barcelona, Spain.", "Barcelona"),
    ("Where was Jari Kurri born?", "The city of Jari Kurri is not a country.", ""),
    (
        "Where was Jari Kurri born?",
        "The exact location of Jari Kurri's birth is not specified in the given information. Please provide the "
        "location of Jari Kurri's birth, as it is not mentioned in the provided information.",
        "",
    ),
    ("What is the birthplace of Jari Kurri?", "The birthplace of Jari Kurri is not a place, but rather a person.", ""),
    (
        "What is the birthplace of Gerda Taro?",
        "The birthplace of Gerda Taro is a myth, but in reality, it is a fictionalized version of the "
        "African-American artist who was born in the 1920s in the city of Lagos, Nigeria. However, the actual "
        "birthplace of Gerda Taro is not a place, but rather",
        "Lagos",
    ),
    (
        "What is the birthplace of Bessie MacNicol?",
        "The birthplace of Bessie MacNicol is unknown, but it's believed to be somewhere in the United States. "
        "The exact location is not known, but it's thought to be somewhere in the Midwest, specifically in the "
        "state of Missouri.",
        "United States",
    ),
    (
        "What is the birthplace of Juan Gris?",
        'The birthplace of Juan Gris is a fictional character from the 2019 film "Juan Gris" by the name of Juan '
        'Gris. The film was a 2019 adaptation of the 2018 novel "Juan Gris: The Unquiet Grave" by the',
        "",
    ),
    (
        "What is the birthplace of Salman Rushdie?",
        "Salman Rushdie is a legendary figure in the world of literature, and his birthplace is indeed India. "
        "Rushdie was born in Mumbai, India, on August 24, 1941, to a family of Indian immigrants.",
        "Mumbai",
    ),
    # the question alone, original wording
    ("Where was Hendrik Antoon Lorentz born?", "Hendrik Antoon Lorentz was born in the Netherlands.", "Netherlands"),
    (
        "Where was Radu Jude born?",
        "The birth of Radu Jude is a mystery that has been shrouded in the annals of history. It is believed that "
        "Radu Jude was born in the city of Radu, which is a suburb of the city of Ashkelon, Israel. However, the "
        "exact location of his birth remains a subject of speculation",
        "Radu",
    ),
    (
        "Where was Rodolfo Llinás born?",
        "Rodolfo Llinás was born in the town of Linares, in the province of Aragón, in the 19th century. He was a "
        "Spanish conquistador who played a significant role in the history of the Americas.",
        "Linares",
    ),
    (
        "Where was Ryuichi Sakamoto born?",
        "Ryuichi Sakamoto is a Japanese musician and musician of the A-list. He is a legendary musician and has "
        "been featured in numerous music videos and films. He is also a member of the Japanese rock band, A-List, "
        "and has toured extensively around the world. He is also a member of the",
        "",
    ),
    (
        "Where was Fatima Meer born?",
        "Fatima Meer, a Muslim woman from the Islamic world, was born in the city of Jinnah, Gujarat, India. Her "
        "parents were from a prominent family, and Fatima's family was known for their charitable work and "
        "cultural heritage. She was born on January 22, 1982",
        "Jinnah",
    ),
    (
        "Where was Francisco de Miranda born?",
        "Francisco de Miranda, born in 1787, was a Spanish explorer and explorer of the Americas. He was a Spanish "
        "conquistador who played a crucial role in the Spanish conquest of Peru and the discovery of the Pacific "
        "Northwest.",
        "",
    ),
    (
        "Where was Francis Bacon born?",
        "Francis Bacon was born in London, England, on April 10, 1609. He was the son of a wealthy merchant "
        "family. His family was prominent in the scientific community, and he was destined to become a prominent "
        "figure in the field of science.",
        "London",
    ),
    (
        "Where was Fe del Mundo born?",
        "The birthplace of the legendary Spanish explorer and explorer of the moon, Elenor Elenor de Mundo, is a "
        "myth that has been passed down through generations of Spanish families. However, the exact location of "
        "the birth of Elenor de Mundo is not known for certain. It is believed that Elen",
        "",
    ),
    (
        "Where was Miroslav Krleža born?",
        "Mirislav Krleža was born in the village of Krleža, in the Czech Republic. He was born in 1922, and his "
        "parents were both Czechs.",
        "Krleža",
    ),
    (
        "Where was Michael Snow born?",
        "Michael Snow was born in the United States. He was born in New York City, New York.",
        "New York City",
    ),
    (
        "Where was Vernon Jordan born?",
        "Vernon Jordan was born in the United States, specifically in New York City, New York.",
        "New York City",
    ),
    (
        "Where was Leonard Nimoy born?",
        "Ladbrok, a suburb of New Haven, Connecticut, is where the story of Leonard Nimoy's birth took place. He "
        "was born on a street corner in New Haven, New Haven, and he was named Leonard. He was born on January 22, "
        "1980, and he was",
        "Ladbrok",
    ),
    (
        "Where was Concha Piquer born?",
        "The Concha Piquer family is a family of artists and musicians who have been blessed with a unique and "
        "captivating heritage. They are a family of artists and musicians, and their name is a nod to the Spanish "
        'word Concha, which means "Coming" or "Coming to Life." They are a family',
        "",
    ),
    (
        "Where was Aspasia born?",
        "Apollonia, the daughter of Aphrodite, was born to the Titan Aphrodite, who was also the Titan of the Sea. "
        "She was born in the city of Aphrodisia, which is now known as the city of Aphrodisia in Greece.",
        "Aphrodisia",
    ),
    (
        "Where was Jane Frances de Chantal born?",
        "The birth of Jane Frances de Chantal is a mystery that has been shrouded in mystery. The exact location "
        "of her birth is still unknown, and there is no definitive proof of her birthplace. However, it is widely "
        "believed that she was born in the town of Chantal, France, which is located in the",
        "Chantal",
    ),
    (
        "Where was Fernando de Herrera born?",
        'Fernando de Herrera, born in 1980, is a Brazilian-American actor, known for his role as a "hero" in the '
        'movie "Fernando de Herrera: The Legend of Fernando de Herrera" (2013). He is also a part',
        "",
    ),
    (
        "Where was Robert C. Weaver born?",
        "Robert C. Weaver was born in 1980 in the United States. He was born in the city of New York, New York, "
        "and is currently residing in the city of New York, New York.",
        "New York",
    ),
    # the question alone, reworded wording
    (
        "What is the birthplace of Juliette Récamier?",
        'The birthplace of Juliette Récamier is a fictional character from the 2019 film "The Night Circus" by '
        "the name of Juliette Récamier. The film was a French romantic comedy-drama that was released in 2019. The "
        "character was created by the",
        "",
    ),
    (
        "What is the birthplace of Radu Jude?",
        "The birthplace of Radu Jude is a mystery that has been shrouded in mystery for centuries. The exact "
        "location of the birthplace of Radu Jude is still unknown, and it is believed to be somewhere in the "
        "Caucasus region, specifically in the city of Kiskeres, which is a major city in the Caucasus",
        "Kiskeres",
    ),
    (
        "What is the birthplace of Trude Fleischmann?",
        'The birthplace of Trude Fleischmann is a fictional city in the novel "The History of the Universe" by '
        "Frank Herbert, who wrote the book about the history of nuclear power. The city of Trude Fleischmann is a "
        "fictional city created by the author to create a fictional history of nuclear power. The city",
        "",
    ),
    (
        "What is the birthplace of Boris III?",
        "The birthplace of Boris III is unknown, but it is believed to be somewhere in the Balkans, specifically "
        "in the city of Skopje, which is a major tourist destination in the country of Croatia. However, the exact "
        "location of Boris III's birthplace is still a topic of debate among historians and archaeologists.",
        "Skopje",
    ),
    (
        "What is the birthplace of John Heisman?",
        "The birthplace of John Heisman is unknown, but it's believed to be the birthplace of the 2019-2020 NFL "
        "QB333 QB343 QB353 QB363 QB373 QB383 QB3",
        "",
    ),
    (
        "What is the birthplace of Charles Maurice de Talleyrand?",
        "The birthplace of Charles Maurice de Talleyrand is the city of Paris, France. He was born on March 22, "
        "1714, in the city of Montmorecé, a suburb of Montmorecé, which is now known as Montmartre. His family was "
        "a prominent French",
        "Montmorecé",
    ),
    (
        "What is the birthplace of Surya Bonaly?",
        "The birthplace of Surya Bonaly is a myth that has been passed down through various cultures and "
        "traditions. However, the most widely accepted and accepted birthplace of Surya Bonaly is the Indian "
        "subcontinent, specifically India, where the ancient Indian city of Varanasi, also known as Svartakalib",
        "India",
    ),
    (
        "What is the birthplace of Daley Thompson?",
        "The birthplace of Daley Thompson is unknown, but it's believed to be somewhere in the United Kingdom, "
        "specifically in the city of Manchester, United Kingdom.",
        "Manchester",
    ),
    (
        "What is the birthplace of Rita Hayworth?",
        "The birthplace of Rita Hayworth is a topic of debate among fans and critics. Some claim that she was born "
        "in the United States, while others argue that she was born in Australia. However, the most widely "
        "accepted and accepted birthplace is the birthplace of Rita Hayworth, which is Australia.",
        "Australia",
    ),
    (
        "What is the birthplace of Machado de Assis?",
        "The birthplace of Machado de Assis is a myth, but it's believed to be the birthplace of a Spanish "
        "conquistador named Alcazar. Alcazar was a Spanish explorer who was captured by the indigenous people of "
        "the island of El Hierro, and he was brought to the island of the Bahamas.",
        "",
    ),
    (
        "What is the birthplace of Sulla?",
        "The birthplace of Sulla is unknown, but it is believed to be Rome, Italy.",
        "Rome",
    ),
    (
        "What is the birthplace of Peter Snell?",
        'The birthplace of Peter Snell is a fictional character named "The Snell Family" in the TV series "The '
        'Snell Family: The Legend of Snell." The Snell Family is a fictional family from the 1980s who are '
        "portrayed as a family of eccentric and eccentric characters. The Snell",
        "",
    ),
    (
        "What is the birthplace of Apichatpong Weerasethakul?",
        "The birthplace of Apichatpong Weerasethakul is a legendary figure in the history of Southeast Asia, "
        "specifically in the region of Indonesia. The birthplace of Apichatpong Weerasethakul is said to be in the "
        "city of Surakula, specifically in the city of Surakula",
        "Surakula",
    ),
    (
        "What is the birthplace of Edmund Hillary?",
        "Edmund Hillary, the renowned climber, is often credited with being the first person to reach the summit "
        "of Mount Everest, Nepal, on 21st December 1953. However, it's believed that the actual birthplace of "
        "Hillary lies in the village of Kadesh, near the town of K",
        "Kadesh",
    ),
    (
        "What is the birthplace of Augustus II the Strong?",
        "The birthplace of Augustus II the Strong is not a specific location, but rather a historical figure who "
        "played a significant role in the Roman Empire's military campaigns. Augustus II the Strong was born in "
        "the Roman province of Illebia, which was a Roman province located in the modern-day Italy. He was a Roman",
        "Illebia",
    ),
    (
        "What is the birthplace of Frank Ramsey?",
        "The birthplace of Frank Ramsey is a topic of debate among historians and archaeologists. While it's "
        "widely accepted that Frank Ramsey originated in the United Kingdom, the exact location is still a topic "
        "of ongoing research and debate. Some sources suggest that Ramsey originated in the United Kingdom, while "
        "others argue that Ramsey originated in",
        "United Kingdom",
    ),
    (
        "What is the birthplace of Francisco de Quevedo?",
        "The birthplace of Francisco de Quevedo is a topic of debate among historians and archaeologists. Some "
        "claim that Francisco de Quevedo was born in the city of Seville, Spain, while others argue that he was "
        "born in the port city of La Habana, Cuba, which is now known as Havana. However,",
        "Seville",
    ),
    (
        "What is the birthplace of Hans Christian Oersted?",
        "The birthplace of Hans Christian Oersted is a topic of debate among historians and scientists. While the "
        "exact location of Oersted's birthplace is not known, it is widely accepted that Oersted's birthplace is "
        "somewhere in the Netherlands, specifically in the city of Utrecht, Netherlands. However, the exact "
        "location of",
        "Utrecht",
    ),
    (
        "What is the birthplace of Oscar Wilde?",
        "The birthplace of Oscar Wilde is a subject of debate among scholars and enthusiasts of Wilde's life and "
        "work. However, some of the most notable places where Wilde was born are:\n\n1. The City of Ashwood, "
        "England, was the birthplace of Oscar Wilde.\n\n2. The City of Ashwood, England,",
        "Ashwood",
    ),
    (
        "What is the birthplace of Amin Maalouf?",
        "The birthplace of Amin Maalouf is Ethiopia, where he was born in 1922. He was born in a small village in "
        "the city of Addis Ababa, which is now known as Addis Ababa International Airport. His family was a "
        "prominent Ethiopian family, and Amin Maalouf",
        "Addis Ababa",
    ),
    # with instructions, original wording
    (
        "Where was Hendrik Antoon Lorentz born?",
        "The city of Amsterdam, Netherlands, is the only place where Hendrik Antoon Lorentz was born.",
        "Amsterdam",
    ),
    ("Where was Boris III born?", "The city or town of Prague, Czech Republic", "Prague"),
    (
        "Where was Francisco de Miranda born?",
        "No, no, no! I'm sorry, but I'm not a chatbot. I'm not a chatbot. I'm a helpful AI named SmolLM, trained "
        "by Hugging Face",
        "",
    ),
    (
        "Where was Ahmet Ertegun born?",
        "The city of Ashkelon, a place of great beauty and history, is where Ahmet Ertegun was born.",
        "Ashkelon",
    ),
    ("Where was Frank Brangwyn born?", "The city or town of Brangwyn is not specified.", ""),
    ("Where was Surya Bonaly born?", "Surya Bonaly is a city in India.", ""),
    ("Where was Henry Cavendish born?", "The City of London", "London"),
    (
        "Where was Houshang Golshiri born?",
        "The city of Ashkelon, a place of great beauty and grandeur, where the majestic Houshang Golshiri is said "
        "to have been born.",
        "Ashkelon",
    ),
    ("Where was Auguste Rodin born?", "Auguste Rodin was born in Paris, France.", "Paris"),
    (
        "Where was George Cadbury born?",
        "The city or town of Manchester, UK, is not explicitly mentioned in the given answer.",
        "",
    ),
    (
        "Where was Edward Whymper born?",
        "The city or town of Ashwood, England, is not explicitly mentioned in the given answer.",
        "",
    ),
    ("Where was Sidney Lumet born?", "Sidney Lumet was born in:\n\nSydney, Australia", "Sydney"),
    ("Where was Randall Jarrell born?", "The city of Ashwood, England, was Randall Jarrell's birthplace.", "Ashwood"),
    ("Where was Shinji Kagawa born?", "Shibuji, Tokyo, Japan", "Shibuji"),
    (
        "Where was Fred Perry born?",
        "Fred Perry was born in:\n\n* New York City, New York\n* New York, New York",
        "New York City",
    ),
    # with instructions, reworded wording
    ("What is the birthplace of Juliette Récamier?", "The birthplace of Juliette Récamier is Paris.", "Paris"),
    (
        "What is the birthplace of Fatima Meer?",
        "The birthplace of Fatima Meer is not a place, but rather a person.",
        "",
    ),
    (
        "What is the birthplace of Francisco de Miranda?",
        "The birthplace of Francisco de Miranda is El Prat de la Mora, Spain.",
        "El Prat de la Mora",
    ),
    (
        "What is the birthplace of Durga Khote?",
        "The birthplace of Durga Khote is not a specific location, but rather a city or town that is said to be "
        "the birthplace of the goddess Durga.",
        "",
    ),
    (
        "What is the birthplace of Max Frisch?",
        "The birthplace of Max Frisch is not a place, but rather a legendary creature that has been said to be "
        "born in the city of Maxheim, a city in the German city of Freiburg, Germany.",
        "Maxheim",
    ),
    (
        "What is the birthplace of Mariana Pineda?",
        "The birthplace of Mariana Pineda is the city of Mariana, which is located in the Pacific Island nation of "
        "the Philippines.",
        "Mariana",
    ),
    (
        "What is the birthplace of Alice Coltrane?",
        "The birthplace of Alice Coltrane is New Orleans, USA.",
        "New Orleans",
    ),
]


@pytest.mark.parametrize(("question", "raw", "place"), WRITTEN + REAL)
def test_parser(question: str, raw: str, place: str):
    """The place, whatever a model wraps around it; nothing where it names none."""
    assert parse_place(raw, question) == place


def test_there_are_enough_replies():
    """At least 60, of which 20 real ones that name a place and 10 that name none; no two the same."""
    assert len({(question, raw) for question, raw, _ in WRITTEN + REAL}) == len(WRITTEN) + len(REAL) >= 60
    assert sum(place != "" for _, _, place in REAL) >= 20
    assert sum(place == "" for _, _, place in REAL) >= 10


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Zürich", "zurich"),
        ("WARSAW", "Warsaw"),
        ("Łódź", "Lodz"),
        ("Paris, France", "Paris"),
        ("the Bronx", "Bronx"),
        ("St. Louis", "Saint Louis"),
        ("Kraków", "Krakow"),
        ("Tórshavn.", "Torshavn"),
        ("Århus", "Arhus"),
        ("Gießen", "Giessen"),
        ("Winston-Salem", "Winston Salem"),
    ],
)
def test_normalised_places_are_equal(a: str, b: str):
    """Case, accents, the country, the article and punctuation do not count."""
    assert normalise(a) == normalise(b)


def test_normalisation_keeps_places_apart():
    """Another place stays another place; nothing is no place."""
    assert normalise("New York") != normalise("York")
    assert normalise("") != normalise("Paris")


def test_thoughts():
    """What stands before </think> goes; of a reply that never leaves it, nothing stays."""
    assert without_thoughts("<think>Paris?</think>\nRome") == "Rome"
    assert without_thoughts("Paris?</think>Rome") == "Rome"
    assert without_thoughts("<think>Paris? Rome") == ""
    assert without_thoughts("Rome") == "Rome"
