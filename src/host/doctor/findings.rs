//! What the checks found.

use serde::Serialize;

use super::repair::Fix;
use super::text::visible;

/// How bad something is, from well to broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// It works, but not as was meant, or not for long.
    Warning,
    /// A VM does not start, or starts without the device.
    Broken,
}

/// A row of the table of checks.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is called: `group.what`, for ever.
    pub id: &'static str,
    /// What it looks at.
    pub looks_at: &'static str,
    /// How bad it is when it finds something.
    pub severity: Severity,
}

impl Check {
    /// Without it a VM does not start, or has no device.
    pub(super) const fn broken(id: &'static str, looks_at: &'static str) -> Self {
        Check {
            id,
            looks_at,
            severity: Severity::Broken,
        }
    }

    /// It may work nevertheless.
    pub(super) const fn warning(id: &'static str, looks_at: &'static str) -> Self {
        Check {
            id,
            looks_at,
            severity: Severity::Warning,
        }
    }

    /// It is worth knowing.
    pub(super) const fn note(id: &'static str, looks_at: &'static str) -> Self {
        Check {
            id,
            looks_at,
            severity: Severity::Note,
        }
    }
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Which file.
    pub file: String,
    /// Which line, from 1; absent for a file of which only the end was read.
    pub line: Option<u64>,
}

/// A step of a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A command line for a shell.
    Type(String),
    /// What no command does.
    Do(String),
}

/// Something that a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub what: String,
    /// What to do about it, in this order.
    pub remedy: Vec<Step>,
    /// Where it is written.
    pub at: Option<Place>,
    /// What `--fix` does about it.
    #[serde(skip)]
    pub fix: Option<Fix>,
    /// `--fix` does something about it.
    pub fixable: bool,
}

impl Finding {
    /// Then type this.
    pub(super) fn remedy(&mut self, line: impl AsRef<str>) -> &mut Self {
        self.remedy.push(Step::Type(visible(line.as_ref())));
        self
    }

    /// Then do or know this.
    pub(super) fn advice(&mut self, line: impl AsRef<str>) -> &mut Self {
        self.remedy.push(Step::Do(visible(line.as_ref())));
        self
    }

    /// Where it is written.
    pub(super) fn at(&mut self, place: Place) -> &mut Self {
        self.at = Some(place);
        self
    }

    /// What `--fix` does about it.
    pub(super) fn fix(&mut self, fix: Fix) -> &mut Self {
        self.fixable = true;
        self.fix = Some(fix);
        self
    }

    /// As bad as this, instead of as the row says.
    pub(super) fn severity(&mut self, severity: Severity) -> &mut Self {
        self.severity = severity;
        self
    }
}

/// What became of a check.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// All is well, and what was seen.
    Ok {
        /// In one line.
        seen: String,
    },
    /// It was not looked at.
    Skipped {
        /// Why not.
        why: String,
    },
    /// Something was found.
    Found {
        /// At least one.
        findings: Vec<Finding>,
    },
}

/// A check and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The name of its group.
    pub group: &'static str,
    /// Its id.
    pub id: &'static str,
    /// What it looks at.
    pub looks_at: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub state: State,
}

/// What became of all checks, in their order.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Findings {
    rows: Vec<Row>,
}

impl Findings {
    /// Each check.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Everything that was found.
    pub fn found(&self) -> impl Iterator<Item = (&Row, &Finding)> {
        self.rows.iter().flat_map(|row| {
            let findings: &[Finding] = match &row.state {
                State::Found { findings } => findings,
                _ => &[],
            };
            findings.iter().map(move |finding| (row, finding))
        })
    }

    /// The worst of what was found.
    pub fn worst(&self) -> Option<Severity> {
        self.found().map(|(_, finding)| finding.severity).max()
    }

    /// The worst of what was found by checks whose ids start so.
    pub(super) fn worst_of(&self, prefix: &str) -> Option<Severity> {
        self.found()
            .filter(|(row, _)| row.id.starts_with(prefix))
            .map(|(_, finding)| finding.severity)
            .max()
    }

    /// The rows of a group, all of them not looked at yet.
    pub(super) fn begin(&mut self, group: &'static str, checks: &[&'static Check]) {
        self.rows.extend(checks.iter().map(|check| Row {
            group,
            id: check.id,
            looks_at: check.looks_at,
            state: State::Skipped {
                why: "nothing to look at".to_owned(),
            },
        }));
    }

    /// All is well with it.
    pub(super) fn ok(&mut self, check: &'static Check, seen: impl AsRef<str>) {
        let row = self.row(check);
        if matches!(row.state, State::Skipped { .. }) {
            row.state = State::Ok {
                seen: visible(seen.as_ref()),
            };
        }
    }

    /// It cannot be looked at.
    pub(super) fn skip(&mut self, check: &'static Check, why: impl AsRef<str>) {
        let row = self.row(check);
        if matches!(row.state, State::Skipped { .. }) {
            row.state = State::Skipped {
                why: visible(why.as_ref()),
            };
        }
    }

    /// Something is wrong with it.
    pub(super) fn found_in(
        &mut self,
        check: &'static Check,
        what: impl AsRef<str>,
    ) -> &mut Finding {
        let state = &mut self.row(check).state;
        if !matches!(state, State::Found { .. }) {
            *state = State::Found {
                findings: Vec::new(),
            };
        }
        let State::Found { findings } = state else {
            unreachable!("it was made so above")
        };
        findings.push(Finding {
            severity: check.severity,
            what: visible(what.as_ref()),
            remedy: Vec::new(),
            at: None,
            fix: None,
            fixable: false,
        });
        let last = findings.len() - 1;
        &mut findings[last]
    }

    fn row(&mut self, check: &'static Check) -> &mut Row {
        let at = self.rows.iter().position(|row| row.id == check.id);
        let at = at.expect("a group speaks of its own checks, whose rows `begin` made");
        &mut self.rows[at]
    }
}
