"""Names, numbers and words that no text has by chance."""

import random
from functools import cache
from itertools import islice, product

_ADJECTIVES = """
amber ancient brave bright broken calm clever cold crimson curious dusty eager early faint fierce
gentle gloomy golden grand hollow humble icy jolly keen late lively lonely lucky mellow mighty misty
narrow noble odd pale patient plain proud quiet rapid rare rough royal rusty secret sharp silent
silver simple slow smooth solid steady stern sudden tender tiny velvet vivid wild
"""
_NOUNS = """
anchor arrow badger basket beacon bridge candle canyon castle cedar chapel comet copper cradle
desert dolphin engine falcon feather forest fountain garden glacier hammer harbor hazel helmet
island jacket kettle ladder lantern lemon lizard magnet maple meadow mirror monkey needle ocean
orchard otter parrot pebble pepper pillow planet pocket raven ribbon saddle shadow spider temple
ticket tunnel valley violin walnut
"""
ADJECTIVES = _ADJECTIVES.split()
NOUNS = _NOUNS.split()
CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"


def new_keys(count: int, rng: random.Random) -> list[str]:
    """Return different names such as amber-falcon."""
    names: dict[str, None] = {}
    while len(names) < count:
        names[f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"] = None
    return list(names)


def new_numbers(count: int, rng: random.Random, digits: int = 7) -> list[str]:
    """Return different numbers of so many digits."""
    numbers = rng.sample(range(10 ** (digits - 1), 10**digits), count)
    return [str(number) for number in numbers]


def new_variables(count: int, rng: random.Random) -> list[str]:
    """Return different names of five capital letters."""
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5))] = None
    return list(names)


@cache
def made_words(count: int) -> tuple[str, ...]:
    """Return different words of two syllables, and of three when there are not enough; shuffled."""
    syllables = [c + v for c, v in product(CONSONANTS, VOWELS)]
    number = 2 if count <= len(syllables) ** 2 else 3
    words = ["".join(parts) for parts in product(syllables, repeat=number)]
    random.Random(number).shuffle(words)
    return tuple(islice(words, count))
