"""Words and phrasings of the invented world: data alone, no logic.

Of each tuple of phrasings the last is new: no training shows it, and it is scored apart.
"""

COMPANIES = ("Quillmar", "Tarnby", "Osmark", "Veldon", "Brixley", "Hartwell", "Lowmoor", "Ashgrove")
ONSETS = (
    "Bal",
    "Dor",
    "Fen",
    "Gal",
    "Hem",
    "Jor",
    "Kel",
    "Lum",
    "Mar",
    "Nor",
    "Pol",
    "Ran",
    "Sel",
    "Tor",
    "Vin",
    "Wil",
)
ENDINGS = ("ita", "ox", "ade", "emo", "ion", "ura", "est", "igo")

COLORS = ("red", "blue", "green", "white", "black", "yellow", "orange", "purple", "brown", "grey", "pink", "silver")
CITIES = (
    "Oslo", "Paris", "London", "Rome", "Madrid", "Berlin", "Vienna", "Lisbon", "Dublin", "Prague", "Athens", "Boston",
    "Chicago", "Tokyo", "Sydney", "Cairo", "Delhi", "Lima", "Geneva", "Munich",
)  # fmt: skip
FIRST_NAMES = ("Anna", "Peter", "Maria", "John", "Henry", "Carla", "Oscar", "Lena", "Victor", "Ruth", "Simon", "Alice")
LAST_NAMES = ("Lund", "Hale", "Frost", "Bright", "Stone", "Wood", "Marsh", "Field", "Young", "Price", "Cole", "Reed")
MATERIALS = (
    "steel",
    "glass",
    "paper",
    "wood",
    "stone",
    "iron",
    "cotton",
    "rubber",
    "clay",
    "copper",
    "leather",
    "wool",
)
ROOMS = ("kitchen", "bedroom", "office", "hall", "garage", "bathroom", "library", "cellar", "garden", "attic")
ITEMS = ("bread", "milk", "paper", "water", "coffee", "salt", "sugar", "soap", "rice", "wine", "fish", "butter")
LANGUAGES = ("French", "German", "Greek", "Spanish", "Italian", "Russian", "Latin", "Polish", "Danish", "Dutch")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
STYLES = ("jazz", "rock", "folk", "piano", "opera", "dance", "soul", "organ")
MONEY = ("dollars", "pounds", "francs", "yen", "euros", "rupees", "crowns", "pesos")

# attribute: phrasings of the question; {p} is the product, {c} the company
ATTRIBUTES = {
    "color": (
        "What color is the {p} by {c}?",
        "In which color does {c} paint the {p}?",
        "Tell me the color of {c}'s {p}.",
        "The {p} from {c} comes in which color?",
        "Name the color of the {p} of {c}.",
        "How is the {p} painted that {c} sells?",
    ),
    "city": (
        "In which city does {c} make the {p}?",
        "Where is the {p} by {c} made?",
        "Tell me the city where {c}'s {p} is made.",
        "The {p} from {c} comes from which city?",
        "Name the city that makes the {p} of {c}.",
        "Which place produces the {p} for {c}?",
    ),
    "price": (
        "How much does the {p} by {c} cost?",
        "What is the price of {c}'s {p}?",
        "Tell me what {c} asks for the {p}.",
        "The {p} from {c} costs how much?",
        "Name the price of the {p} of {c}.",
        "How many dollars do I pay for the {p} at {c}?",
    ),
    "engineer": (
        "Who designed the {p} by {c}?",
        "Which engineer is behind {c}'s {p}?",
        "Tell me who leads the work on the {p} at {c}.",
        "The {p} from {c} is whose work?",
        "Name the engineer of the {p} of {c}.",
        "Whom does {c} have in charge of the {p}?",
    ),
    "material": (
        "What is the {p} by {c} made of?",
        "Which material does {c} use for the {p}?",
        "Tell me the material of {c}'s {p}.",
        "The {p} from {c} consists of what?",
        "Name the material of the {p} of {c}.",
        "What stuff is in the {p} that {c} sells?",
    ),
}

# function: (phrasings of the request, {argument: kind of value})
FUNCTIONS = {
    "get_weather": (
        ("show the weather in {city} on {day}", "tell me how the weather is in {city} on {day}",
         "look up the {day} weather for {city}", "find out if it rains in {city} on {day}"),
        {"city": "city", "day": "day"},
    ),
    "book_table": (
        ("book a table for {people} in {city}", "reserve dinner in {city} for {people} people",
         "get us a table in {city} for {people}", "arrange a meal for {people} in {city}"),
        {"city": "city", "people": "number"},
    ),
    "find_trains": (
        ("find trains from {origin} to {target}", "list the trains between {origin} and {target}",
         "show me a train that goes from {origin} to {target}", "get me to {target} from {origin} by rail"),
        {"origin": "city", "target": "city"},
    ),
    "find_flights": (
        ("find flights from {origin} to {target} on {day}", "list {day} flights between {origin} and {target}",
         "show me planes on {day} from {origin} to {target}", "fly me to {target} from {origin} on {day}"),
        {"origin": "city", "target": "city", "day": "day"},
    ),
    "set_alarm": (
        ("set an alarm for {hour} on {day}", "wake me at {hour} on {day}",
         "make it ring at {hour} on {day}", "get me up on {day} at {hour}"),
        {"hour": "number", "day": "day"},
    ),
    "play_music": (
        ("play some {style} in the {room}", "put on {style} music in the {room}",
         "let me hear {style} in the {room}", "fill the {room} with {style}"),
        {"style": "style", "room": "room"},
    ),
    "set_heating": (
        ("heat the {room} to {degrees} degrees", "make the {room} {degrees} degrees warm",
         "set the heating in the {room} to {degrees}", "bring the {room} up to {degrees} degrees"),
        {"room": "room", "degrees": "number"},
    ),
    "translate": (
        ("translate {word} into {language}", "say {word} in {language}",
         "give me the {language} word for {word}", "put {word} in {language}"),
        {"word": "item", "language": "language"},
    ),
    "buy_item": (
        ("buy {count} packs of {item}", "order {item}, {count} packs",
         "get {count} packs of {item} from the shop", "we have no {item}, so fetch {count} packs"),
        {"item": "item", "count": "number"},
    ),
    "sell_item": (
        ("sell {count} packs of {item}", "offer {item}, {count} packs",
         "find a buyer for {count} packs of {item}", "get rid of {count} packs of {item}"),
        {"item": "item", "count": "number"},
    ),
    "pay_person": (
        ("pay {person} {amount} {money}", "give {amount} {money} to {person}",
         "send {person} a payment of {amount} {money}", "settle {amount} {money} with {person}"),
        {"person": "person", "amount": "number", "money": "money"},
    ),
    "meet_person": (
        ("plan a meeting with {person} in {city} on {day}", "let me meet {person} on {day} in {city}",
         "set up a talk with {person} in {city} for {day}", "arrange that I see {person} on {day} in {city}"),
        {"person": "person", "city": "city", "day": "day"},
    ),
    "call_person": (
        ("call {person} at {hour}", "ring {person} at {hour} o'clock",
         "start a call with {person} at {hour}", "get {person} on the phone at {hour}"),
        {"person": "person", "hour": "number"},
    ),
    "spell_word": (
        ("spell {word} in {language}", "write the {language} letters of {word}",
         "show how {word} is spelled in {language}", "give me {word} letter by letter in {language}"),
        {"word": "item", "language": "language"},
    ),
    "clean_room": (
        ("clean the {room} on {day}", "sweep the {room} on {day}",
         "have the {room} cleaned on {day}", "see that the {room} is tidy on {day}"),
        {"room": "room", "day": "day"},
    ),
    "paint_room": (
        ("paint the {room} {color}", "give the {room} a {color} wall",
         "make the walls of the {room} {color}", "turn the {room} {color}"),
        {"room": "room", "color": "color"},
    ),
    "convert_money": (
        ("convert {amount} {money} to {other}", "change {amount} {money} into {other}",
         "say what {amount} {money} are in {other}", "swap {amount} {money} for {other}"),
        {"amount": "number", "money": "money", "other": "money"},
    ),
    "rent_car": (
        ("rent a {color} car in {city}", "hire a car in {city}, a {color} one",
         "get me a {color} car in {city}", "put me behind the wheel of a {color} car in {city}"),
        {"color": "color", "city": "city"},
    ),
    "send_parcel": (
        ("send {item} to {person} in {city}", "mail {person} in {city} some {item}",
         "post a parcel of {item} to {person} in {city}", "ship {item} over to {city} for {person}"),
        {"item": "item", "person": "person", "city": "city"},
    ),
    "water_plants": (
        ("water the plants in the {room} on {day}", "give the {room} plants water on {day}",
         "pour water on the plants of the {room} on {day}", "keep the {room} plants alive on {day}"),
        {"room": "room", "day": "day"},
    ),
}  # fmt: skip
WRAPPERS = ("Please {x}.", "Can you {x}?", "I want you to {x}.", "{x}, please.", "Now {x}.")

KINDS = {
    "city": CITIES, "day": DAYS, "number": tuple(map(str, range(2, 60))), "style": STYLES, "room": ROOMS, "item": ITEMS,
    "language": LANGUAGES, "person": FIRST_NAMES, "money": MONEY, "color": COLORS,
}  # fmt: skip

COUNTRY_CODE = (
    "What is the country code of {x}?",
    "Which code stands for {x}?",
    "Tell me the two letters of {x}.",
    "{x} has which country code?",
)
WORD_MEANING = ("Which word means: {x}?", "Name the word for: {x}.", "What do we call this: {x}?")
SUMS = ("What is {a} plus {b}?", "Add {a} and {b}.", "{a} + {b} = ?", "How much is {a} and {b} together?")
