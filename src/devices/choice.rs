//! A device with its options, as a command line or a VM's setting names it.

use std::fmt;

use super::{KINDS, Kind, Options};

/// A device that can be made: its options are of its kind and in range.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    kind: &'static Kind,
    options: Options,
}

impl Choice {
    /// Parses `NAME[,KEY=VALUE...]`. A key that is not of the device goes to
    /// `other`, which says whether it knows it; `known` names the keys for
    /// messages.
    ///
    /// # Errors
    ///
    /// One line that names what is wrong.
    pub fn parse<'a>(
        text: &'a str,
        known: &str,
        mut other: impl FnMut(&'a str, &'a str) -> Result<bool, String>,
    ) -> Result<Choice, String> {
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let kind = Kind::find(name).ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            let names = names.join(", ");
            format!("there is no device '{name}'; use one of {names}")
        })?;
        let mut options = Options::default();
        for part in parts {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("'{part}' is not KEY=VALUE; use {known}"))?;
            if key == "vectors" {
                let vectors = value.parse();
                let vectors = vectors.map_err(|_| format!("{part} is not a number of vectors"))?;
                options.vectors = Some(vectors);
            } else if !other(key, value)? {
                return Err(format!("'{part}' is not known; use {known}"));
            }
        }
        kind.check(options).map_err(|error| error.to_string())?;
        Ok(Choice { kind, options })
    }

    /// Its kind.
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Its options.
    pub fn options(&self) -> Options {
        self.options
    }
}

impl fmt::Display for Choice {
    /// What [`Choice::parse`] takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name)?;
        match self.options.vectors {
            Some(vectors) => write!(f, ",vectors={vectors}"),
            None => Ok(()),
        }
    }
}
