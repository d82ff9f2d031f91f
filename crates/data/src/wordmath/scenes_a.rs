//! Scenes around buying, sharing, saving and making things.

use super::{
    form::Form::*,
    scene::{Scene, end, say},
};

const MARKET: Scene = Scene {
    items: &["apples", "pears", "lemons", "oranges", "plums", "mangoes"],
    openings: &[
        say(Given, "{name} has {a} {items} in {his} basket.", &[]),
        say(
            Product,
            "{name} buys {a} bags with {b} {items} in each bag.",
            &["Count the {items} in the bags."],
        ),
        say(
            MoreThan,
            "{other} buys {a} {items}. {name} buys {b} more {items} than {other}.",
            &["Count the {items} {name} buys."],
        ),
        say(
            TimesOf,
            "{other} buys {a} {items}. {name} buys {times} as many {items} as {other}.",
            &["Count the {items} {name} buys."],
        ),
    ],
    events: &[
        say(
            Add,
            "{name} buys {a} more {items}",
            &["Add the new {items}."],
        ),
        say(
            Sub,
            "{name} gives {a} {items} to {other}",
            &["Take away the {items} given to {other}."],
        ),
        say(
            AddProduct,
            "{name} buys {a} boxes with {b} {items} in each box",
            &["Count the {items} in the boxes.", "Add them to the rest."],
        ),
        say(
            SubProduct,
            "{name} fills {a} bowls with {b} {items} each and gives the bowls away",
            &[
                "Count the {items} in the bowls.",
                "Take them away from the rest.",
            ],
        ),
        say(
            Halve,
            "{name} uses half of {his} {items} for juice",
            &["Half of the {items} are left."],
        ),
    ],
    endings: &[
        end(
            Price,
            "{name} sells all {his} {items} for ${price} each.",
            &["Find the money for all {items}."],
            "How many dollars does {name} get?",
        ),
        end(
            Share,
            "{name} shares {his} {items} equally among {a} neighbors.",
            &["Find the share of each neighbor."],
            "How many {items} does each neighbor get?",
        ),
        end(
            PriceLess,
            "{name} sells all {his} {items} for ${price} each and pays ${b} for the stand.",
            &[
                "Find the money for all {items}.",
                "Take away the cost of the stand.",
            ],
            "How many dollars does {name} have left from the sale?",
        ),
    ],
    question: "How many {items} does {name} have now?",
};

const SHARING: Scene = Scene {
    items: &["marbles", "stickers", "candies", "cards", "balloons"],
    openings: &[
        say(Given, "{name} has {a} {items}.", &[]),
        say(
            Sum,
            "{name} has {a} red {items} and {b} blue {items}.",
            &["Count all {items} at first."],
        ),
        say(
            FewerThan,
            "{other} has {a} {items}. {name} has {b} fewer {items} than {other}.",
            &["Count the {items} {name} has."],
        ),
        say(
            TimesTogether,
            "{other} has {a} {items}. {name} has {times} as many {items} as {other}. {other} gives all {items} to {name}.",
            &[
                "Count the {items} {name} has at first.",
                "Add the {items} of {other}.",
            ],
        ),
    ],
    events: &[
        say(
            Add,
            "{name} gets {a} {items} from {his} aunt",
            &["Add the {items} from the aunt."],
        ),
        say(
            Sub,
            "{name} loses {a} {items}",
            &["Take away the lost {items}."],
        ),
        say(
            SubProduct,
            "{name} gives {a} friends {b} {items} each",
            &[
                "Count the {items} given away.",
                "Take them away from the rest.",
            ],
        ),
        say(
            AddProduct,
            "{name} opens {a} packs with {b} {items} in each pack and keeps them all",
            &["Count the {items} in the packs.", "Add them to the rest."],
        ),
        say(
            Multiply,
            "{name} plays so well that {he} ends up with {times} as many {items} as before",
            &["Multiply the {items}."],
        ),
    ],
    endings: &[
        end(
            Share,
            "{name} shares all {items} equally among {a} cousins.",
            &["Find the share of each cousin."],
            "How many {items} does each cousin get?",
        ),
        end(
            ShortOf,
            "{name} wants to have {a} {items}.",
            &["Find how many {items} are missing."],
            "How many more {items} does {name} need?",
        ),
        end(
            TimesMoreTogether,
            "Now {his} brother has {times} as many {items} as {name}.",
            &["Count the {items} of the brother.", "Add both."],
            "How many {items} do {name} and {his} brother have together?",
        ),
    ],
    question: "How many {items} does {name} have in the end?",
};

const SAVING: Scene = Scene {
    items: &["dollars"],
    openings: &[
        say(Given, "{name} has ${a} in {his} piggy bank.", &[]),
        say(
            Product,
            "{name} saves ${b} every week for {a} weeks.",
            &["Find the money saved."],
        ),
        say(
            MoreThan,
            "{other} has saved ${a}. {name} has saved ${b} more than {other}.",
            &["Find the money {name} has saved."],
        ),
        say(
            TimesOf,
            "{other} has saved ${a}. {name} has saved {times} as much as {other}.",
            &["Find the money {name} has saved."],
        ),
    ],
    events: &[
        say(
            Add,
            "{name} gets ${a} for {his} birthday",
            &["Add the birthday money."],
        ),
        say(
            Sub,
            "{name} spends ${a} on a game",
            &["Take away the price of the game."],
        ),
        say(
            AddProduct,
            "{name} washes {a} cars for ${b} each",
            &["Find the money for washing cars.", "Add it to the savings."],
        ),
        say(
            SubProduct,
            "{name} buys {a} tickets for ${b} each",
            &[
                "Find the price of the tickets.",
                "Take it away from the money.",
            ],
        ),
        say(
            Halve,
            "{name} gives half of {his} money to charity",
            &["Half of the money is left."],
        ),
    ],
    endings: &[
        end(
            ShortOf,
            "{name} wants to buy a bike for ${a}.",
            &["Find how much money is missing."],
            "How many more dollars does {name} need?",
        ),
        end(
            Share,
            "{name} spends all {his} money on {a} books that cost the same.",
            &["Find the price of one book."],
            "How many dollars does each book cost?",
        ),
    ],
    question: "How many dollars does {name} have now?",
};

const BAKING: Scene = Scene {
    items: &["cookies", "muffins", "cupcakes", "rolls", "pies"],
    openings: &[
        say(Given, "{name} bakes {a} {items}.", &[]),
        say(
            Product,
            "{name} bakes {a} trays with {b} {items} on each tray.",
            &["Count the {items} on the trays."],
        ),
        say(
            Sum,
            "{name} bakes {a} {items} in the morning and {b} {items} in the afternoon.",
            &["Count the {items} of the day."],
        ),
        say(
            TimesTogether,
            "{other} bakes {a} {items}. {name} bakes {times} as many {items} as {other}. They put all {items} on one table.",
            &[
                "Count the {items} {name} bakes.",
                "Add the {items} of {other}.",
            ],
        ),
    ],
    events: &[
        say(
            Sub,
            "{a} {items} get burnt and are thrown away",
            &["Take away the burnt {items}."],
        ),
        say(
            Add,
            "{name} bakes {a} more {items}",
            &["Add the new {items}."],
        ),
        say(
            SubProduct,
            "{a} guests eat {b} {items} each",
            &["Count the {items} eaten.", "Take them away from the rest."],
        ),
        say(
            AddProduct,
            "{name} makes {a} more trays of {b} {items} each",
            &[
                "Count the {items} on the new trays.",
                "Add them to the rest.",
            ],
        ),
        say(
            Halve,
            "half of the {items} are taken to school",
            &["Half of the {items} are left."],
        ),
    ],
    endings: &[
        end(
            Share,
            "The {items} are packed into {a} boxes with the same number in each.",
            &["Find how many {items} go into one box."],
            "How many {items} are in each box?",
        ),
        end(
            Price,
            "All of the {items} are sold for ${price} each.",
            &["Find the money for all {items}."],
            "How many dollars do the {items} bring in?",
        ),
        end(
            PriceShare,
            "All of the {items} are sold for ${price} each, and {b} helpers share the money equally.",
            &[
                "Find the money for all {items}.",
                "Find the share of one helper.",
            ],
            "How many dollars does each helper get?",
        ),
    ],
    question: "How many {items} are there now?",
};

const BEADS: Scene = Scene {
    items: &["beads", "buttons", "shells", "ribbons"],
    openings: &[
        say(Given, "{name} keeps {a} {items} in a jar.", &[]),
        say(
            Product,
            "{name} has {a} jars with {b} {items} in each jar.",
            &["Count the {items} in the jars."],
        ),
        say(
            FewerThan,
            "{other} has {a} {items}. {name} has {b} fewer {items} than {other}.",
            &["Count the {items} {name} has."],
        ),
    ],
    events: &[
        say(
            Add,
            "{name} finds {a} more {items}",
            &["Add the {items} found."],
        ),
        say(
            Sub,
            "{name} sews {a} {items} onto a coat",
            &["Take away the {items} on the coat."],
        ),
        say(
            SubProduct,
            "{name} makes {a} bracelets with {b} {items} on each bracelet",
            &[
                "Count the {items} on the bracelets.",
                "Take them away from the rest.",
            ],
        ),
        say(
            AddProduct,
            "{name} orders {a} packs of {b} {items} each",
            &["Count the {items} in the packs.", "Add them to the rest."],
        ),
        say(
            Halve,
            "{name} gives half of the {items} to {other}",
            &["Half of the {items} are left."],
        ),
    ],
    endings: &[
        end(
            Share,
            "{name} uses up the {items} on {a} necklaces that are all alike.",
            &["Find how many {items} one necklace takes."],
            "How many {items} are on each necklace?",
        ),
        end(
            ShortOf,
            "A curtain needs {a} {items}.",
            &["Find how many {items} are missing."],
            "How many more {items} does {name} need for the curtain?",
        ),
    ],
    question: "How many {items} does {name} have left to work with?",
};

const TOYS: Scene = Scene {
    items: &["robots", "dolls", "kites", "puzzles", "drums"],
    openings: &[
        say(Given, "A toy shop has {a} {items} on its shelves.", &[]),
        say(
            Product,
            "A toy shop has {a} shelves with {b} {items} on each shelf.",
            &["Count the {items} on the shelves."],
        ),
        say(
            Sum,
            "A toy shop has {a} large {items} and {b} small {items}.",
            &["Count all {items} in the shop."],
        ),
    ],
    events: &[
        say(
            Sub,
            "the shop sells {a} {items} on Monday",
            &["Take away the {items} sold."],
        ),
        say(
            Add,
            "a truck brings {a} {items}",
            &["Add the {items} from the truck."],
        ),
        say(
            AddProduct,
            "the shop gets {a} crates with {b} {items} in each crate",
            &["Count the {items} in the crates.", "Add them to the rest."],
        ),
        say(
            SubProduct,
            "{a} schools buy {b} {items} each",
            &[
                "Count the {items} the schools buy.",
                "Take them away from the rest.",
            ],
        ),
        say(
            Halve,
            "half of the {items} are moved to another shop",
            &["Half of the {items} are left."],
        ),
    ],
    endings: &[
        end(
            Price,
            "{name} buys all the {items} in the shop for ${price} each.",
            &["Find the price of all {items}."],
            "How many dollars does {name} pay?",
        ),
        end(
            Share,
            "The shop puts the {items} into {a} windows with the same number in each.",
            &["Find how many {items} are in one window."],
            "How many {items} are in each window?",
        ),
    ],
    question: "How many {items} does the shop have now?",
};

const CRAFT: Scene = Scene {
    items: &["scarves", "hats", "candles", "baskets", "mugs"],
    openings: &[
        say(Given, "{name} makes {a} {items} for a fair.", &[]),
        say(
            Product,
            "{name} makes {b} {items} a day for {a} days.",
            &["Count the {items} made."],
        ),
        say(
            TimesOf,
            "{other} makes {a} {items} for a fair. {name} makes {times} as many {items} as {other}.",
            &["Count the {items} {name} makes."],
        ),
        say(
            MoreThan,
            "{other} makes {a} {items} for a fair. {name} makes {b} more than {other}.",
            &["Count the {items} {name} makes."],
        ),
    ],
    events: &[
        say(
            Sub,
            "{name} keeps {a} {items} as gifts",
            &["Take away the gifts."],
        ),
        say(
            Add,
            "{his} mother makes {a} {items} for {name}",
            &["Add the {items} of the mother."],
        ),
        say(
            AddProduct,
            "{a} friends bring {b} {items} each for {name}",
            &[
                "Count the {items} the friends bring.",
                "Add them to the rest.",
            ],
        ),
        say(
            SubProduct,
            "{name} packs {a} parcels of {b} {items} each and sends them off",
            &[
                "Count the {items} in the parcels.",
                "Take them away from the rest.",
            ],
        ),
    ],
    endings: &[
        end(
            Price,
            "{name} sells all these {items} for ${price} each.",
            &["Find the money for the {items}."],
            "How many dollars does {name} earn at the fair?",
        ),
        end(
            PriceLess,
            "{name} sells all these {items} for ${price} each and spends ${b} on lunch.",
            &[
                "Find the money for the {items}.",
                "Take away the price of lunch.",
            ],
            "How many dollars of this money does {name} bring home?",
        ),
        end(
            PriceShare,
            "{name} sells all these {items} for ${price} each and shares the money equally among {b} children.",
            &[
                "Find the money for the {items}.",
                "Find the share of one child.",
            ],
            "How many dollars does each child get?",
        ),
    ],
    question: "How many {items} does {name} have for the fair?",
};

/// All scenes of this file.
pub(super) const SCENES: [&Scene; 7] = [&MARKET, &SHARING, &SAVING, &BAKING, &BEADS, &TOYS, &CRAFT];
