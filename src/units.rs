//! Bytes, numbers and times as people read them.

/// `17 B`, `1.2 kB`, `345 MB`: three digits and a power of 1000.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `850 ms`, `12.3 s`, `4 min 05 s`, `2 h 07 min`.
pub fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {:02} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// `1 task`, `2 tasks`.
pub fn plural(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// Parses a number of bytes: `1048576`, `512KiB`, `2GB`, `1.5 GiB`. Units with an `i` are powers
/// of 1024, those without are powers of 1000; upper or lower case is the same.
///
/// # Errors
/// A message that says what a size looks like.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
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
    fn figures_are_short() {
        let texts = [0, 999, 1000, 9_994, 99_949, 999_499, 999_500, 1_234_567_890].map(bytes);
        let expected = [
            "0 B", "999 B", "1.00 kB", "9.99 kB", "99.9 kB", "999 kB", "1.00 MB", "1.23 GB",
        ];
        assert_eq!(texts, expected);
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        let times = [999, 1_250, 65_000, 7_620_000].map(millis);
        assert_eq!(times, ["999 ms", "1.2 s", "1 min 05 s", "2 h 07 min"]);
    }

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
