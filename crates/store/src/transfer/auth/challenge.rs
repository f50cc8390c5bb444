//! What a registry asks for in `WWW-Authenticate` (RFC 9110, section 11): a pure parser.
//!
//! One header may hold several challenges, and a challenge's parameters are separated by the same
//! comma that separates challenges, so a word is a scheme exactly when no `=` follows it.

/// One challenge: a scheme and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// The scheme in lower case: `basic`, `bearer`.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter; names are compared without regard to case.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Reads every challenge of one header value. What does not follow the grammar ends the reading: the
/// challenges before it count, since a client must ignore what it cannot understand.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = take_token(rest);
        if word.is_empty() {
            return challenges;
        }
        let after_space = after.trim_start_matches([' ', '\t']);
        match (after_space.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let Some((value, after)) = take_value(value.trim_start_matches([' ', '\t'])) else {
                    return challenges;
                };
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                rest = after;
            }
            // A parameter without a scheme before it.
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = skip_token68(after_space);
            }
        }
    }
}

/// A `Negotiate`-like credential blob after the scheme. It is neither a name nor `name=`: it ends at a
/// comma or at the end of the header, and only `=` padding may close it.
fn skip_token68(text: &str) -> &str {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/')))
        .unwrap_or(text.len());
    let after = text[end..].trim_start_matches('=').trim_start_matches([' ', '\t']);
    if end > 0 && (after.is_empty() || after.starts_with(',')) { after } else { text }
}

fn take_token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !is_token_char(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token or a quoted string, and what follows it.
fn take_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, after) = take_token(text);
        return Some((token.to_owned(), after));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parameters = Vec<(String, String)>;

    fn pairs(header: &str) -> Vec<(String, Parameters)> {
        parse(header).into_iter().map(|c| (c.scheme, c.parameters)).collect()
    }

    fn owned(parameters: &[(&str, &str)]) -> Parameters {
        parameters.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn challenges_parse() {
        let bearer =
            owned(&[("realm", "https://a/t?x=1,2"), ("service", "s"), ("scope", "repository:a/b:pull,push")]);
        let cases: &[(&str, Vec<(&str, Parameters)>)] = &[
            ("", vec![]),
            ("Basic", vec![("basic", vec![])]),
            ("Basic realm=x", vec![("basic", owned(&[("realm", "x")]))]),
            (
                r#"Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a/b:pull,push""#,
                vec![("bearer", bearer.clone())],
            ),
            (
                r#"BEARER  realm = "https://a/t?x=1,2" , service=s,scope="repository:a/b:pull,push", Basic realm="y""#,
                vec![("bearer", bearer), ("basic", owned(&[("realm", "y")]))],
            ),
            (
                "Negotiate abc/+==, Basic realm=\"z\"",
                vec![("negotiate", vec![]), ("basic", owned(&[("realm", "z")]))],
            ),
            (
                "Negotiate, Basic realm=\"z\"",
                vec![("negotiate", vec![]), ("basic", owned(&[("realm", "z")]))],
            ),
            (r#"Basic realm="a \"quoted\" b\\c""#, vec![("basic", owned(&[("realm", r#"a "quoted" b\c"#)]))]),
            // Broken: what came before still counts.
            (r#"Basic realm="open"#, vec![("basic", vec![])]),
            ("realm=x", vec![]),
            ("Basic realm=x;;;", vec![("basic", owned(&[("realm", "x")]))]),
            ("Basic realm=\"é\"", vec![("basic", owned(&[("realm", "é")]))]),
        ];
        for (header, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(s, p)| ((*s).to_owned(), p.clone())).collect();
            assert_eq!(pairs(header), expected, "{header}");
        }
    }

    #[test]
    fn parameter_names_have_no_case() {
        let challenges = parse("Bearer Realm=\"r\"");
        assert_eq!(challenges[0].parameter("REALM"), Some("r"));
        assert_eq!(challenges[0].parameter("scope"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_header_ends(header in ".{0,200}") {
            parse(&header);
        }
    }
}
