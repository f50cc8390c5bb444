//! Names of signals, as image configs spell them.

/// The signals of Linux on all architectures that plywood runs on, from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal, as the C library counts: it keeps two of the kernel's for itself.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

/// The number of a signal: `SIGTERM`, `term`, `15`, `SIGRTMIN+3` or `RTMAX-2`. None if there is no such signal.
pub fn number(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u8::try_from(index + 1).ok();
    }
    let offset = |text: &str, sign| match text {
        "" => Some(0),
        more => more.strip_prefix(sign)?.parse::<u8>().ok(),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(more), _) => RTMIN.checked_add(offset(more, '+')?)?,
        (_, Some(less)) => RTMAX.checked_sub(offset(less, '-')?)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        let table = [
            ("SIGTERM", 15),
            ("term", 15),
            ("15", 15),
            ("SIGKILL", 9),
            ("SIGSYS", 31),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-2", 62),
            ("64", 64),
        ];
        for (text, expected) in table {
            assert_eq!(number(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-1",
            "SIGNOSUCH",
            "SIGRTMIN+31",
            "RTMAX-31",
            "SIGRTMIN3",
            "RTMAX+1",
            "300",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
