//! Bytes as people write them. How they read them, and numbers and times, the library knows.

pub(crate) use kiln::units::{bytes, grouped, millis, plural};

/// Parses a number of bytes: `1048576`, `512KiB`, `2GB`, `1.5 GiB`. Units with an `i` are powers
/// of 1024, those without are powers of 1000; upper or lower case is the same.
///
/// # Errors
/// A message that says what a size looks like.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    let (base, power) = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => (1000u64, 0),
        "k" => (1000, 1),
        "m" => (1000, 2),
        "g" => (1000, 3),
        "t" => (1000, 4),
        "ki" => (1024, 1),
        "mi" => (1024, 2),
        "gi" => (1024, 3),
        "ti" => (1024, 4),
        _ => return Err("not a size: write it like 512MiB or 2GB".to_owned()),
    };
    let factor = base.pow(power);
    let bytes = match digits.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => match digits.parse::<f64>() {
            // Below 2^53 every whole number has an f64 of its own.
            Ok(part) if part * (factor as f64) < (1u64 << 53) as f64 => {
                Some((part * factor as f64) as u64)
            }
            _ => None,
        },
    };
    match bytes {
        Some(0) => Err("a size has to be larger than 0".to_owned()),
        Some(bytes) => Ok(bytes),
        None => Err("not a size: write it like 512MiB or 2GB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed() {
        let cases = [
            ("1", Some(1)),
            ("512MiB", Some(512 << 20)),
            ("512mib", Some(512 << 20)),
            ("2GB", Some(2_000_000_000)),
            ("2g", Some(2_000_000_000)),
            ("1.5 GiB", Some(3 << 29)),
            ("10 k", Some(10_000)),
            ("0", None),
            ("", None),
            ("GB", None),
            ("-1", None),
            ("1.2.3", None),
            ("7 parsecs", None),
            ("99999999999TiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_bytes(text).ok(), expected, "{text:?}");
        }
    }
}
