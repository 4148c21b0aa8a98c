//! serde's errors in words for whoever wrote the configuration or the request, who need not know what a `u64` is.

/// What the parts of a document are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// Keys and sections of a configuration.
    Configuration,
    /// Members and objects of a JSON document.
    Json,
    /// Parameters of a query.
    Query,
}

impl Words {
    /// Says in plain words what serde says of a value; what is not known here is passed on as it is, without the place that
    /// serde_json adds.
    pub fn say(self, message: &str) -> String {
        let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
        let quoted = |rest: &str| rest.split('`').next().unwrap_or_default().to_owned();
        if let Some(rest) = message.strip_prefix("unknown field `") {
            let known = match rest.split_once(", expected ") {
                Some((_, known)) if known.starts_with("one of ") => format!("; known are {}", &known[7..]),
                Some((_, known)) => format!("; known: {}", known.replace(" or ", ", ")),
                None => "; none is taken here".to_owned(),
            };
            return format!("unknown {} `{}`{known}", self.part(), quoted(rest));
        }
        if let Some(rest) = message.strip_prefix("unknown variant `") {
            let known = rest.split_once(", expected ").map_or("nothing", |(_, known)| known);
            return format!("must be {known}, not `{}`", quoted(rest));
        }
        if let Some(rest) = message.strip_prefix("missing field `") {
            return format!("`{}` is missing", quoted(rest));
        }
        if let Some(rest) = message.strip_prefix("duplicate field `") {
            return format!("`{}` is given twice", quoted(rest));
        }
        for wrong in ["invalid type: ", "invalid value: "] {
            if let Some((found, wanted)) =
                message.strip_prefix(wrong).and_then(|rest| rest.rsplit_once(", expected "))
            {
                let found = self.found(found);
                if wanted == "u64" && found.parse().is_ok_and(|number: f64| number >= u64::MAX as f64) {
                    return format!("must be a whole number up to {}, not {found}", u64::MAX);
                }
                return format!("must be {}, not {found}", self.wanted(wanted));
            }
        }
        match message {
            "invalid digit found in string" | "cannot parse integer from empty string" => {
                "must be a whole number from 0 on".to_owned()
            }
            "number too large to fit in target type" => "is too large".to_owned(),
            "invalid socket address syntax" => format!("must be {ADDRESS}"),
            other => other.to_owned(),
        }
    }

    fn part(self) -> &'static str {
        match self {
            Words::Configuration => "key",
            Words::Json => "member",
            Words::Query => "parameter",
        }
    }

    fn structure(self) -> &'static str {
        if self == Words::Configuration { "a section" } else { "an object" }
    }

    fn wanted(self, wanted: &str) -> String {
        match wanted {
            "u8" => "a whole number from 0 to 255".to_owned(),
            "u16" => "a whole number from 0 to 65535".to_owned(),
            "u32" => "a whole number from 0 to 4294967295".to_owned(),
            "u64" | "u128" | "usize" => "a whole number from 0 on".to_owned(),
            "a string" | "string" | "a borrowed string" => "text".to_owned(),
            "a boolean" => "true or false".to_owned(),
            "a sequence" => "a list".to_owned(),
            "a map" | "an object" => self.structure().to_owned(),
            "path string" => "a path".to_owned(),
            "socket address" => ADDRESS.to_owned(),
            other if other.starts_with("struct ") => self.structure().to_owned(),
            other => other.to_owned(),
        }
    }

    fn found(self, found: &str) -> String {
        match found {
            "sequence" => "a list".to_owned(),
            "map" => self.structure().to_owned(),
            other => {
                // The kind of value goes, the value stays: integer `-1`, string "x".
                let value = other.split_once(['`', '"']).and_then(|(kind, _)| other.get(kind.len()..));
                value.unwrap_or(other).trim_matches('`').to_owned()
            }
        }
    }
}

const ADDRESS: &str = "an address and a port, such as 127.0.0.1:8080";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serde_says_is_said_in_words() {
        for (message, said) in [
            ("invalid value: integer `-1`, expected u64", "must be a whole number from 0 on, not -1"),
            ("invalid value: integer `300`, expected u8", "must be a whole number from 0 to 255, not 300"),
            (
                "invalid type: string \"a, expected b\", expected u64",
                "must be a whole number from 0 on, not \"a, expected b\"",
            ),
            ("invalid type: boolean `true`, expected a string", "must be text, not true"),
            ("invalid type: null, expected a string at line 1 column 9", "must be text, not null"),
            ("invalid type: map, expected a sequence", "must be a list, not an object"),
            ("invalid type: sequence, expected an object", "must be an object, not a list"),
            (
                "invalid type: floating point `1.5`, expected usize",
                "must be a whole number from 0 on, not 1.5",
            ),
            (
                "invalid type: floating point `1.8446744073709552e19`, expected u64",
                "must be a whole number up to 18446744073709551615, not 1.8446744073709552e19",
            ),
            ("unknown variant `x`, expected `sled` or `memory`", "must be `sled` or `memory`, not `x`"),
            (
                "unknown field `x`, expected one of `a`, `b`, `c` at line 3 column 4",
                "unknown member `x`; known are `a`, `b`, `c`",
            ),
            ("unknown field `x`, expected `a` or `b`", "unknown member `x`; known: `a`, `b`"),
            ("unknown field `x`, expected `a`", "unknown member `x`; known: `a`"),
            ("unknown field `x`, there are no fields", "unknown member `x`; none is taken here"),
            ("missing field `sku` at line 1 column 2", "`sku` is missing"),
            ("duplicate field `sku`", "`sku` is given twice"),
            ("invalid digit found in string", "must be a whole number from 0 on"),
            ("invalid socket address syntax", "must be an address and a port, such as 127.0.0.1:8080"),
            ("the moon is in the wrong phase", "the moon is in the wrong phase"),
        ] {
            assert_eq!(Words::Json.say(message), said);
        }
        let wrong = "invalid type: string \"x\", expected struct Listen";
        assert_eq!(Words::Configuration.say(wrong), "must be a section, not \"x\"");
    }
}
