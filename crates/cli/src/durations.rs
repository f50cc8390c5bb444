//! Durations as people type them: `200ms`, `30s`, `50ns`.

use std::time::Duration;

const UNITS: [(&str, f64); 5] = [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];

/// A number with a unit; `0` needs none.
///
/// # Errors
/// If it is something else, negative, or longer than a day.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; one looks like 200ms, 1.5s, 50ns or 2m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, name) = text.split_at(unit);
    let (_, seconds) = UNITS.iter().find(|(unit, _)| *unit == name).ok_or_else(wrong)?;
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let total = number * seconds;
    if total > 86_400.0 {
        return Err(format!("{text:?} is longer than a day"));
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

/// The same, of what cannot be done in no time.
///
/// # Errors
/// If it is something else, or 0.
pub fn parse_some(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err(format!("{text:?} is no time at all")),
        some => Ok(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("50ns"), Ok(Duration::from_nanos(50)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert!(parse_some("0s").is_err() && parse_some("1ns").is_ok());
        for text in ["", "5", "ms", "-5s", "1h", "1.2.3s", "1 s", "2000m", "nan s"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
