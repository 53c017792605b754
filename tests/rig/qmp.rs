//! A small client of QEMU's machine protocol (QMP).

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{RigError, process};

/// How long QEMU may take to answer. Its monitor stands still for 5 s while
/// a device's server does not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to one QEMU's monitor, negotiated.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    messages: Receiver<String>,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Reads the greeting and enters command mode.
    pub(crate) fn negotiate(stream: UnixStream) -> Result<Self, RigError> {
        let reader = stream
            .try_clone()
            .map_err(|error| RigError::failed("cannot clone the QMP socket", error))?;
        let mut qmp = Self {
            stream,
            messages: process::lines_of(reader),
            events: VecDeque::new(),
        };
        let greeting = qmp.next(Instant::now() + ANSWER_LIMIT)?;
        if greeting.get("QMP").is_none() {
            return Err(RigError::failed("QMP greeting", greeting));
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its answer; events meanwhile are kept.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, RigError> {
        let request = json!({"execute": command, "arguments": arguments});
        // In one piece: QEMU may quit at its last brace.
        let request = format!("{request}\n");
        self.stream
            .write_all(request.as_bytes())
            .map_err(|error| RigError::failed(format!("cannot send QMP {command}"), error))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let mut message = self
                .next(deadline)
                .map_err(|error| RigError::failed(format!("QMP {command}"), error))?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            } else {
                return Err(RigError::failed(
                    format!("QMP {command} refused"),
                    &message["error"],
                ));
            }
        }
    }

    /// Waits for an event of this name and returns it; others are kept.
    pub(crate) fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value, RigError> {
        if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
            return Ok(self.events.remove(at).unwrap_or_default());
        }
        let deadline = Instant::now() + limit;
        loop {
            let event = self
                .next(deadline)
                .map_err(|error| RigError::failed(format!("QMP event {name}"), error))?;
            if event["event"] == name {
                return Ok(event);
            }
            self.events.push_back(event);
        }
    }

    fn next(&self, deadline: Instant) -> Result<Value, RigError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = self.messages.recv_timeout(left).map_err(|error| {
            let why = match error {
                RecvTimeoutError::Timeout => "nothing came in time",
                RecvTimeoutError::Disconnected => "QEMU closed the connection",
            };
            RigError::failed("QMP", why)
        })?;
        serde_json::from_str(&line).map_err(|error| RigError::failed("QMP sent no JSON", error))
    }
}
