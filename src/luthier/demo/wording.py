"""The words of the demo task: a café's menu and two stocks of sentences, one to train on and one held out.

The menu, the numbers and the plain noun phrase ("two large lattes with oat milk") are common to both stocks:
they are the grammar of the task. Everything around them stands in one stock only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One thing on the menu. `one` and `many` are what the customer says, `name` is what the order says."""

    name: str
    one: str
    many: str
    extras: tuple[str, ...]
    sized: bool


@dataclass(frozen=True)
class Wording:
    """A stock of sentences with slots. Stocks are disjoint: no sentence stands in two of them."""

    frames: tuple[str, ...]
    lines: tuple[str, ...]
    asides: tuple[str, ...]

    def sentences(self) -> frozenset[str]:
        """Every sentence of the stock, slots unfilled."""
        return frozenset(
            (
                *self.frames,
                *self.lines,
                *self.asides,
            )
        )


PLAIN_LINE = "{quantity} {size} {item} {extras}"
"""The noun phrase that both stocks share."""

NUMBERS = {
    1: ("a", "one", "1", "a single"),
    2: ("two", "2", "a couple of"),
    3: ("three", "3"),
    4: ("four", "4"),
    5: ("five", "5"),
    6: ("six", "6"),
    12: ("twelve", "12", "a dozen"),
}
SIZES = {"small": ("small",), "medium": ("medium",), "large": ("large", "big")}

_HOT = ("oat milk", "soy milk", "almond milk", "vanilla syrup", "caramel syrup", "cinnamon", "whipped cream")
_TEA = ("lemon", "honey", "mint", "oat milk", "ginger")
_COLD = ("lemon", "mint", "extra ice", "vanilla syrup")
_BREAD = ("butter", "jam", "cream cheese", "honey")
_SWEET = ("whipped cream", "chocolate sauce", "custard")


def _drink(name: str, many: str, extras: tuple[str, ...]) -> Item:
    return Item(name, name, many, extras, sized=True)


def _food(name: str, many: str, extras: tuple[str, ...]) -> Item:
    return Item(name, name, many, extras, sized=False)


MENU = (
    _drink("latte", "lattes", _HOT),
    _drink("cappuccino", "cappuccinos", _HOT),
    _drink("flat white", "flat whites", _HOT),
    _drink("americano", "americanos", _HOT),
    _drink("mocha", "mochas", _HOT),
    _drink("hot chocolate", "hot chocolates", _HOT),
    _drink("chai latte", "chai lattes", _HOT),
    _drink("green tea", "green teas", _TEA),
    _drink("black tea", "black teas", _TEA),
    _drink("iced coffee", "iced coffees", _COLD),
    _drink("iced tea", "iced teas", _COLD),
    _drink("lemonade", "lemonades", _COLD),
    _drink("orange juice", "orange juices", _COLD),
    _food("croissant", "croissants", _BREAD),
    _food("bagel", "bagels", _BREAD),
    _food("scone", "scones", _BREAD),
    _food("blueberry muffin", "blueberry muffins", _BREAD),
    _food("cinnamon roll", "cinnamon rolls", _SWEET),
    _food("brownie", "brownies", _SWEET),
    _food("cheese toastie", "cheese toasties", ("ketchup", "mustard", "pickles")),
    Item("carrot cake", "slice of carrot cake", "slices of carrot cake", _SWEET, sized=False),
    Item("banana bread", "slice of banana bread", "slices of banana bread", _BREAD, sized=False),
)

TRAIN = Wording(
    frames=(
        "Hi, can I get {order}?",
        "I'd like {order}, please.",
        "Good morning! {order}, please.",
        "Could we have {order}?",
        "I'll take {order}.",
        "Let me get {order}.",
        "{order}, thanks.",
        "Hello! We need {order}.",
        "Give me {order}, would you?",
        "Hey, {order} for us.",
        "One order: {order}.",
        "I think I'll have {order} today.",
        "My colleagues sent me for {order}.",
        "Evening. {order} if you can.",
        "We're ready to order: {order}.",
        "Would it be possible to get {order}?",
        "I was hoping for {order}.",
        "The usual: {order}.",
        "Okay, {order}.",
        "Um, {order}, I guess.",
        "Please bring us {order}.",
        "For our table {order}.",
        "Sorry, I'm in a hurry, just {order}.",
        "Can you make {order}?",
        "I want {order}.",
        "It's my first time here. I'll try {order}.",
        "My daughter would love {order}.",
        "Put me down for {order}.",
        "Still open? Great, {order} then.",
        "Two minutes till my train! {order}!",
        "Hi there, I need to order {order}.",
        "{order}. Got that?",
    ),
    lines=(
        "{quantity} more {size} {item} {extras}",
        "{quantity} nice {size} {item} {extras}",
        "just {quantity} {size} {item} {extras}",
    ),
    asides=(
        "Thanks!",
        "Thank you so much.",
        "That's all.",
        "Cheers.",
        "How much is that?",
        "Nothing else.",
        "It smells great in here.",
        "Is the wifi working?",
        "Can I pay by card?",
        "Have a nice day.",
        "What a day!",
        "What does it cost?",
        "You are busy today.",
        "No rush.",
        "Perfect.",
        "We love this place.",
    ),
)

HELDOUT = Wording(
    frames=(
        "Might I order {order}?",
        "Hiya, {order} when you get a moment.",
        "We'd love {order}.",
        "I'm after {order}.",
        "Let's start with {order}.",
        "Good afternoon, may I have {order}?",
        "The team is thirsty: {order}.",
        "Any chance of {order}?",
        "Do us {order}, will you?",
        "It'll be {order} this time.",
        "Just popping in for {order}.",
        "Long day. {order} should help.",
        "My sister asked for {order}.",
        "What about {order}?",
    ),
    lines=(
        "{quantity} of the {size} {item} {extras}",
        "maybe {quantity} {size} {item} {extras}",
    ),
    asides=(
        "Much obliged.",
        "That'd be everything.",
        "What do I owe you?",
        "Lovely, ta.",
        "What a queue today!",
    ),
)
