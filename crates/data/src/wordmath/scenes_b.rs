//! Scenes around travel, reading, animals, places and work.

use super::{
    form::Form::*,
    scene::{Scene, end, say},
};

const TRAVEL: Scene = Scene {
    items: &["miles", "kilometers"],
    openings: &[
        say(
            Given,
            "{name} rides {a} {items} on the first day of a bike tour.",
            &[],
        ),
        say(
            Product,
            "{name} rides {b} {items} an hour for {a} hours.",
            &["Find the distance of the ride."],
        ),
        say(
            Sum,
            "{name} rides {a} {items} before lunch and {b} {items} after lunch.",
            &["Find the distance of the first day."],
        ),
        say(
            TimesTogether,
            "{name} rides {a} {items} on Monday and {times} as far on Tuesday.",
            &[
                "Find the distance on Tuesday.",
                "Add the distance on Monday.",
            ],
        ),
    ],
    events: &[
        say(
            Add,
            "{name} rides {a} {items} to a lake",
            &["Add the way to the lake."],
        ),
        say(
            AddProduct,
            "{name} rides {b} {items} a day for {a} days",
            &["Find the distance of those days.", "Add it to the rest."],
        ),
        say(
            Multiply,
            "{name} rides on until {his} whole distance is {times} what it was",
            &["Multiply the distance."],
        ),
    ],
    endings: &[
        end(
            ShortOf,
            "The whole tour is {a} {items} long.",
            &["Find the distance that is left."],
            "How many {items} are left?",
        ),
        end(
            Share,
            "{name} goes the same whole distance home in {a} equal parts.",
            &["Find the length of one part."],
            "How many {items} long is each part?",
        ),
        end(
            TimesMoreTogether,
            "{other} has ridden {times} as far as {name}.",
            &["Find the distance of {other}.", "Add both."],
            "How many {items} have {name} and {other} ridden together?",
        ),
    ],
    question: "How many {items} has {name} ridden altogether?",
};

const READING: Scene = Scene {
    items: &["pages"],
    openings: &[
        say(
            Given,
            "{name} reads {a} {items} of a long book on Sunday.",
            &[],
        ),
        say(
            Product,
            "{name} reads {b} {items} of a long book every day for {a} days.",
            &["Count the {items} read."],
        ),
        say(
            MoreThan,
            "{other} reads {a} {items} of a book. {name} reads {b} more {items} of the same book than {other}.",
            &["Count the {items} {name} reads."],
        ),
    ],
    events: &[
        say(
            Add,
            "{name} reads {a} more {items} of it",
            &["Add the {items} read."],
        ),
        say(
            AddProduct,
            "{name} reads {a} chapters of {b} {items} each",
            &[
                "Count the {items} in the chapters.",
                "Add them to the rest.",
            ],
        ),
        say(
            Multiply,
            "{name} reads on until {he} has read {times} as many {items} of it",
            &["Multiply the {items}."],
        ),
    ],
    endings: &[
        end(
            ShortOf,
            "The book has {a} {items}.",
            &["Find how many {items} are left."],
            "How many {items} does {name} still have to read?",
        ),
        end(
            Share,
            "{other} reads just as many {items} of the book in {a} days, the same number each day.",
            &["Find the {items} of one day."],
            "How many {items} does {other} read each day?",
        ),
    ],
    question: "How many {items} of the book has {name} read?",
};

const FARM: Scene = Scene {
    items: &["hens", "sheep", "goats", "ducks", "rabbits"],
    openings: &[
        say(Given, "There are {a} {items} on {name}'s farm.", &[]),
        say(
            Product,
            "{name}'s farm has {a} pens with {b} {items} in each pen.",
            &["Count the {items} in the pens."],
        ),
        say(
            Sum,
            "{name}'s farm has {a} white {items} and {b} brown {items}.",
            &["Count all {items} on the farm."],
        ),
        say(
            FewerThan,
            "{other}'s farm has {a} {items}. {name}'s farm has {b} fewer.",
            &["Count the {items} on {name}'s farm."],
        ),
    ],
    events: &[
        say(
            Add,
            "{a} young {items} are born on {name}'s farm",
            &["Add the young {items}."],
        ),
        say(
            Sub,
            "{name} sells {a} {items}",
            &["Take away the {items} sold."],
        ),
        say(
            SubProduct,
            "{a} neighbors buy {b} {items} each from {name}",
            &["Count the {items} bought.", "Take them away from the rest."],
        ),
        say(
            AddProduct,
            "{name} buys {a} groups of {b} {items} each",
            &["Count the {items} bought.", "Add them to the rest."],
        ),
        say(
            Halve,
            "{name} gives half of {his} {items} to {his} son",
            &["Half of the {items} are left."],
        ),
    ],
    endings: &[
        end(
            Price,
            "{name} spends ${price} on feed for each of {his} {items}.",
            &["Find the cost of the feed."],
            "How many dollars does the feed cost?",
        ),
        end(
            Share,
            "{name} puts {his} {items} into {a} barns with the same number in each.",
            &["Find how many {items} are in one barn."],
            "How many {items} are in each barn?",
        ),
    ],
    question: "How many {items} are on {name}'s farm now?",
};

const GARDEN: Scene = Scene {
    items: &["tulips", "roses", "tomatoes", "pumpkins", "daisies"],
    openings: &[
        say(Given, "{name} plants {a} {items} in {his} garden.", &[]),
        say(
            Product,
            "{name} plants {a} rows with {b} {items} in each row.",
            &["Count the {items} in the rows."],
        ),
        say(
            TimesOf,
            "{other} plants {a} {items}. {name} plants {times} as many {items} as {other}.",
            &["Count the {items} {name} plants."],
        ),
    ],
    events: &[
        say(
            Sub,
            "{a} of {name}'s {items} dry up",
            &["Take away the {items} that dry up."],
        ),
        say(
            Add,
            "{name} plants {a} more {items}",
            &["Add the new {items}."],
        ),
        say(
            AddProduct,
            "{name} adds {a} rows of {b} {items} each",
            &[
                "Count the {items} in the new rows.",
                "Add them to the rest.",
            ],
        ),
        say(
            SubProduct,
            "{name} digs up {a} rows of {b} {items} each",
            &["Count the {items} dug up.", "Take them away from the rest."],
        ),
        say(
            Halve,
            "a storm destroys half of {name}'s {items}",
            &["Half of the {items} are left."],
        ),
    ],
    endings: &[
        end(
            Share,
            "{name} moves all {his} {items} into {a} beds with the same number in each.",
            &["Find how many {items} are in one bed."],
            "How many {items} are in each bed?",
        ),
        end(
            TimesMoreTogether,
            "The park has {times} as many {items} as {name}.",
            &["Count the {items} in the park.", "Add both."],
            "How many {items} do {name} and the park have together?",
        ),
    ],
    question: "How many {items} does {name} have in the garden now?",
};

const LIBRARY: Scene = Scene {
    items: &["books", "magazines", "comics", "atlases"],
    openings: &[
        say(Given, "A library has {a} {items} on display.", &[]),
        say(
            Product,
            "A library has {a} racks with {b} {items} on each rack.",
            &["Count the {items} on the racks."],
        ),
        say(
            MoreThan,
            "A school has {a} {items}. A library has {b} more {items} than the school.",
            &["Count the {items} in the library."],
        ),
    ],
    events: &[
        say(
            Sub,
            "visitors borrow {a} of the library's {items}",
            &["Take away the borrowed {items}."],
        ),
        say(
            Add,
            "{name} gives {a} {items} to the library",
            &["Add the {items} from {name}."],
        ),
        say(
            AddProduct,
            "{a} families give {b} {items} each to the library",
            &[
                "Count the {items} from the families.",
                "Add them to the rest.",
            ],
        ),
        say(
            SubProduct,
            "{a} classes borrow {b} of the library's {items} each",
            &[
                "Count the {items} the classes borrow.",
                "Take them away from the rest.",
            ],
        ),
        say(
            Halve,
            "the library sells half of its {items}",
            &["Half of the {items} are left."],
        ),
    ],
    endings: &[
        end(
            Share,
            "{name} sorts the library's {items} into {a} equal piles.",
            &["Find how many {items} are in one pile."],
            "How many {items} are in each pile?",
        ),
        end(
            ShortOf,
            "The library has room for {a} {items}.",
            &["Find how much room is left."],
            "How many more {items} can the library take?",
        ),
    ],
    question: "How many {items} does the library have now?",
};

const BUS: Scene = Scene {
    items: &["passengers", "tourists", "students"],
    openings: &[
        say(Given, "A train leaves the station with {a} {items}.", &[]),
        say(
            Product,
            "A train leaves the station with {a} cars and {b} {items} in each car.",
            &["Count the {items} on the train."],
        ),
        say(
            Sum,
            "A train leaves the station with {a} {items} who sit and {b} {items} who stand.",
            &["Count the {items} on the train."],
        ),
    ],
    events: &[
        say(
            Add,
            "{a} {items} get on at the market",
            &["Add the {items} who get on."],
        ),
        say(
            Sub,
            "{a} {items} get off at the bridge",
            &["Take away the {items} who get off."],
        ),
        say(
            AddProduct,
            "{a} groups of {b} {items} each get on at the museum",
            &["Count the {items} in the groups.", "Add them to the rest."],
        ),
        say(
            SubProduct,
            "{a} groups of {b} {items} each get off at the castle",
            &[
                "Count the {items} in the groups.",
                "Take them away from the rest.",
            ],
        ),
        say(
            Halve,
            "half of the {items} get off at the harbor",
            &["Half of the {items} stay."],
        ),
    ],
    endings: &[
        end(
            Price,
            "{name} checks the train and collects ${price} from each of the {items} on it.",
            &["Find the money from all {items}."],
            "How many dollars does {name} collect?",
        ),
        end(
            ShortOf,
            "The train has seats for {a} {items}.",
            &["Find how many seats are free."],
            "How many more {items} would fill the seats?",
        ),
    ],
    question: "How many {items} are on the train now?",
};

const SCHOOL: Scene = Scene {
    items: &["pencils", "crayons", "notebooks", "erasers", "markers"],
    openings: &[
        say(Given, "A teacher has {a} {items} in a cupboard.", &[]),
        say(
            Product,
            "A teacher has {a} boxes with {b} {items} in each box.",
            &["Count the {items} in the boxes."],
        ),
        say(
            TimesOf,
            "{name} has {a} {items}. {name}'s teacher has {times} as many.",
            &["Count the {items} the teacher has."],
        ),
    ],
    events: &[
        say(
            Sub,
            "the teacher lends {a} {items} to another class",
            &["Take away the {items} lent."],
        ),
        say(
            Add,
            "the teacher finds {a} {items} in a drawer",
            &["Add the {items} found."],
        ),
        say(
            SubProduct,
            "the teacher gives {a} children {b} {items} each",
            &[
                "Count the {items} given out.",
                "Take them away from the rest.",
            ],
        ),
        say(
            AddProduct,
            "the teacher orders {a} sets of {b} {items} each",
            &["Count the {items} in the sets.", "Add them to the rest."],
        ),
    ],
    endings: &[
        end(
            Share,
            "The teacher puts all {items} on {a} tables with the same number on each.",
            &["Find how many {items} are on one table."],
            "How many {items} are on each table?",
        ),
        end(
            ShortOf,
            "The school needs {a} {items} for a test.",
            &["Find how many {items} are missing."],
            "How many more {items} does the teacher need?",
        ),
    ],
    question: "How many {items} does the teacher have now?",
};

const TANK: Scene = Scene {
    items: &["liters", "gallons"],
    openings: &[
        say(Given, "A tank holds {a} {items} of water.", &[]),
        say(
            Product,
            "{name} fills an empty tank with {a} buckets of {b} {items} each.",
            &["Find the water in the tank."],
        ),
        say(
            Sum,
            "{name} pours {a} {items} of cold water and {b} {items} of warm water into an empty tank.",
            &["Find the water in the tank."],
        ),
    ],
    events: &[
        say(
            Sub,
            "{name} takes {a} {items} out of the tank to wash a car",
            &["Take away the water for the car."],
        ),
        say(Add, "rain adds {a} {items} to the tank", &["Add the rain."]),
        say(
            SubProduct,
            "the tank leaks {b} {items} an hour for {a} hours",
            &[
                "Find the water that leaks out.",
                "Take it away from the rest.",
            ],
        ),
        say(
            AddProduct,
            "a pump adds {b} {items} a minute to the tank for {a} minutes",
            &["Find the water from the pump.", "Add it to the rest."],
        ),
        say(
            Halve,
            "{name} waters the field with half of the water in the tank",
            &["Half of the water is left."],
        ),
    ],
    endings: &[
        end(
            ShortOf,
            "A full tank holds {a} {items}.",
            &["Find how much is missing."],
            "How many more {items} fit into the tank?",
        ),
        end(
            Share,
            "{name} empties the tank into {a} barrels with the same amount in each.",
            &["Find the water in one barrel."],
            "How many {items} are in each barrel?",
        ),
    ],
    question: "How many {items} of water are in the tank now?",
};

/// All scenes of this file.
pub(super) const SCENES: [&Scene; 8] = [
    &TRAVEL, &READING, &FARM, &GARDEN, &LIBRARY, &BUS, &SCHOOL, &TANK,
];
