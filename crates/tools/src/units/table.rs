//! The tables behind [`super`].

use super::Base::*;
use super::{Base, Row};

/// Nouns that are counted in word problems, singular.
pub(crate) const NOUNS: &str = include_str!("nouns.txt");
/// Words that describe what is counted.
pub(crate) const ADJECTIVES: &str = include_str!("adjectives.txt");

/// Decimal prefixes: name, symbol, power of ten.
pub(crate) const PREFIXES: [(&str, &str, i32); 9] = [
    ("tera", "T", 12),
    ("giga", "G", 9),
    ("mega", "M", 6),
    ("kilo", "k", 3),
    ("deci", "d", -1),
    ("centi", "c", -2),
    ("milli", "m", -3),
    ("micro", "µ", -6),
    ("nano", "n", -9),
];

/// Units that take a prefix, and whether as a symbol.
pub(crate) const PREFIXED: [(&str, bool); 27] = [
    ("metre", false),
    ("meter", false),
    ("gram", false),
    ("litre", false),
    ("liter", false),
    ("second", false),
    ("byte", false),
    ("bit", false),
    ("joule", false),
    ("calorie", false),
    ("watt", false),
    ("newton", false),
    ("pascal", false),
    ("hertz", false),
    ("volt", false),
    ("m", true),
    ("g", true),
    ("l", true),
    ("L", true),
    ("B", true),
    ("J", true),
    ("W", true),
    ("N", true),
    ("Pa", true),
    ("Hz", true),
    ("Wh", true),
    ("V", true),
];

const fn row(
    names: &'static [&'static str],
    dimension: &'static [(Base, i8)],
    size: (u64, u64),
) -> Row {
    Row {
        names,
        dimension,
        size,
        offset: (0, 1),
    }
}

const fn scale(names: &'static [&'static str], size: (u64, u64), offset: (u64, u64)) -> Row {
    Row {
        names,
        dimension: &[(Temperature, 1)],
        size,
        offset,
    }
}

/// Measures; where a name occurs twice, the more usual one first.
#[rustfmt::skip]
pub(crate) static MEASURES: &[Row] = &[
    // Length, in metres
    row(&["metre", "meter", "m"], &[(Length, 1)], (1, 1)),
    row(&["inch", "in"], &[(Length, 1)], (127, 5_000)),
    row(&["foot", "ft"], &[(Length, 1)], (381, 1_250)),
    row(&["yard", "yd", "yds"], &[(Length, 1)], (1_143, 1_250)),
    row(&["mile", "mi"], &[(Length, 1)], (201_168, 125)),
    row(&["nautical mile", "nmi"], &[(Length, 1)], (1_852, 1)),
    row(&["kilometre", "klick", "kms"], &[(Length, 1)], (1_000, 1)),
    row(&["centimetre", "cms"], &[(Length, 1)], (1, 100)),
    row(&["light-year"], &[(Length, 1)], (9_460_730_472_580_800, 1)),
    // Area and volume, in square and cubic metres
    row(&["acre"], &[(Length, 2)], (316_160_658, 78_125)),
    row(&["hectare", "ha"], &[(Length, 2)], (10_000, 1)),
    row(&["litre", "liter", "l", "L"], &[(Length, 3)], (1, 1_000)),
    row(&["gallon", "gal"], &[(Length, 3)], (473_176_473, 125_000_000_000)),
    row(&["quart", "qt", "qts"], &[(Length, 3)], (473_176_473, 500_000_000_000)),
    row(&["pint", "pt", "pts"], &[(Length, 3)], (473_176_473, 1_000_000_000_000)),
    row(&["cup"], &[(Length, 3)], (473_176_473, 2_000_000_000_000)),
    row(&["fluid ounce"], &[(Length, 3)], (473_176_473, 16_000_000_000_000)),
    row(&["tablespoon", "tbsp", "tbsps"], &[(Length, 3)], (473_176_473, 32_000_000_000_000)),
    row(&["teaspoon", "tsp", "tsps"], &[(Length, 3)], (157_725_491, 32_000_000_000_000)),
    row(&["cc"], &[(Length, 3)], (1, 1_000_000)),
    // Mass, in kilograms
    row(&["gram", "g", "gramme", "gms"], &[(Mass, 1)], (1, 1_000)),
    row(&["kilogram", "kilo", "kgs"], &[(Mass, 1)], (1, 1)),
    row(&["pound", "lb", "lbs"], &[(Mass, 1)], (45_359_237, 100_000_000)),
    row(&["ounce", "oz", "ozs"], &[(Mass, 1)], (45_359_237, 1_600_000_000)),
    row(&["stone"], &[(Mass, 1)], (317_514_659, 50_000_000)),
    row(&["ton"], &[(Mass, 1)], (45_359_237, 50_000)),
    row(&["tonne"], &[(Mass, 1)], (1_000, 1)),
    // Time, in seconds
    row(&["second", "s", "sec", "secs"], &[(Time, 1)], (1, 1)),
    row(&["minute", "min", "mins"], &[(Time, 1)], (60, 1)),
    row(&["minute", "m"], &[(Time, 1)], (60, 1)),
    row(&["hour", "h", "hr", "hrs"], &[(Time, 1)], (3_600, 1)),
    row(&["day"], &[(Time, 1)], (86_400, 1)),
    row(&["week", "wk", "wks"], &[(Time, 1)], (604_800, 1)),
    row(&["weekday"], &[(Time, 1)], (86_400, 1)),
    row(&["night"], &[(Time, 1)], (86_400, 1)),
    row(&["fortnight"], &[(Time, 1)], (1_209_600, 1)),
    // The calendar, in months
    row(&["month", "mo"], &[(Calendar, 1)], (1, 1)),
    row(&["year", "yr", "yrs"], &[(Calendar, 1)], (12, 1)),
    row(&["decade"], &[(Calendar, 1)], (120, 1)),
    row(&["century"], &[(Calendar, 1)], (1_200, 1)),
    // Speed
    row(&["mile/hour", "mph"], &[(Length, 1), (Time, -1)], (1_397, 3_125)),
    row(&["kilometre/hour", "kph", "kmh", "kmph"], &[(Length, 1), (Time, -1)], (5, 18)),
    row(&["knot"], &[(Length, 1), (Time, -1)], (463, 900)),
    // Temperature, in kelvins, and angles
    scale(&["kelvin", "K"], (1, 1), (0, 1)),
    scale(&["°C", "celsius", "centigrade"], (1, 1), (5_463, 20)),
    scale(&["°F", "fahrenheit"], (5, 9), (45_967, 100)),
    row(&["degree", "°", "deg"], &[(Degree, 1)], (1, 1)),
    row(&["radian", "rad"], &[(Angle, 1)], (1, 1)),
    // Data, in bytes
    row(&["byte", "B"], &[(Data, 1)], (1, 1)),
    row(&["bit"], &[(Data, 1)], (1, 8)),
    // Physics
    row(&["joule", "J"], &[(Energy, 1)], (1, 1)),
    row(&["calorie", "cal"], &[(Energy, 1)], (523, 125)),
    row(&["kilocalorie", "kcal"], &[(Energy, 1)], (4_184, 1)),
    row(&["watt-hour", "Wh"], &[(Energy, 1)], (3_600, 1)),
    row(&["watt", "W"], &[(Power, 1)], (1, 1)),
    row(&["horsepower", "hp"], &[(Power, 1)], (7_457, 10)),
    row(&["newton", "N"], &[(Force, 1)], (1, 1)),
    row(&["pascal", "Pa"], &[(Pressure, 1)], (1, 1)),
    row(&["hertz", "Hz"], &[(Frequency, 1)], (1, 1)),
    row(&["volt", "V"], &[(Voltage, 1)], (1, 1)),
    // Money
    row(&["dollar", "USD", "usd", "buck"], &[(Money("USD"), 1)], (1, 1)),
    row(&["cent", "penny"], &[(Money("USD"), 1)], (1, 100)),
    row(&["dime"], &[(Money("USD"), 1)], (1, 10)),
    row(&["nickel"], &[(Money("USD"), 1)], (1, 20)),
    row(&["euro", "EUR", "eur"], &[(Money("EUR"), 1)], (1, 1)),
    row(&["pound sterling", "pound", "GBP", "gbp", "quid"], &[(Money("GBP"), 1)], (1, 1)),
    row(&["pence"], &[(Money("GBP"), 1)], (1, 100)),
    row(&["yen", "JPY", "jpy"], &[(Money("JPY"), 1)], (1, 1)),
    row(&["yuan", "CNY", "rmb", "RMB"], &[(Money("CNY"), 1)], (1, 1)),
    row(&["rupee", "INR", "inr", "Rs"], &[(Money("INR"), 1)], (1, 1)),
    row(&["peso"], &[(Money("MXN"), 1)], (1, 1)),
    row(&["franc", "CHF"], &[(Money("CHF"), 1)], (1, 1)),
];
