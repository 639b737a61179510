//! What podrun tells: events, as JSON for programs or as a timeline for people.
//!
//! Every event goes out through one [`Events`], in the order in which the Pod's life was decided. It does not
//! know what an event leads to. A reader that went away is no reason to stop the Pod: write errors are lost.

use std::io::Write as _;
use std::time::Instant;

use fluid_sidecar_layout::named;
use serde::Serialize;

named! {
    /// How events are written to stdout.
    pub enum Format {
        /// One JSON object a line.
        Json = "json",
        /// A timeline to read.
        Text = "text",
    }
}

/// How a Pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Phase {
    /// Every container that counts ended with exit code 0.
    Succeeded,
    /// One did not.
    Failed,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "fields are named for what they hold")]
pub enum Event<'a> {
    /// Which runtime is used.
    Runtime { name: &'a str },
    /// Something that podrun does otherwise than the reader may expect.
    Note { message: &'a str },
    /// What the platform gives a container for a resource limit.
    Granted { container: &'a str, resource: &'a str, what: &'a [&'a str] },
    /// The container's first process runs; its id is the machine's.
    Started { container: &'a str, restarts: u32, pid: i32 },
    /// The runtime could not start the container.
    StartFailed { container: &'a str, message: &'a str },
    /// One line that the container wrote.
    Output { container: &'a str, stream: &'a str, line: &'a str },
    /// A hook or probe ran to its end in the container.
    Hook { container: &'a str, hook: &'a str, exit_code: i32, took_ms: u128, output: &'a str },
    /// podrun asks the container to end, or forces it to.
    Stopping { container: &'a str, signal: &'a str, reason: &'a str },
    /// The container's first process ended; the reason is kubelet's word for it, where it has one.
    Exited {
        container: &'a str,
        exit_code: i32,
        ignored: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    },
    /// The container will be started again.
    Restarting { container: &'a str, delay_ms: u128 },
    /// The Pod is stopped before its end.
    Deleting { reason: &'a str },
    /// The Pod ended; where it failed, which container is why.
    Finished {
        phase: Phase,
        #[serde(skip_serializing_if = "Option::is_none")]
        container: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
    },
}

/// Where events go.
#[derive(Debug)]
pub struct Events {
    format: Format,
    start: Instant,
}

#[derive(Serialize)]
struct Line<'a> {
    time_ms: u128,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

impl Events {
    /// Events whose times count from now.
    pub fn new(format: Format) -> Self {
        Events { format, start: Instant::now() }
    }

    /// Writes one event.
    pub fn emit(&self, event: &Event<'_>) {
        let time_ms = self.start.elapsed().as_millis();
        let mut text = match self.format {
            Format::Json => match serde_json::to_string(&Line { time_ms, event }) {
                Ok(json) => json,
                Err(_) => return,
            },
            Format::Text => timeline(time_ms, event),
        };
        text.push('\n');
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
}

fn timeline(time_ms: u128, event: &Event<'_>) -> String {
    let (who, what) = match event {
        Event::Runtime { name } => ("pod", format!("containers run under {name}")),
        Event::Note { message } => ("pod", format!("note: {message}")),
        Event::Granted { container, resource, what } => {
            (*container, format!("is granted {} (limit {resource})", what.join(", ")))
        }
        Event::Started { container, restarts: 0, .. } => (*container, "started".to_owned()),
        Event::Started { container, restarts, .. } => (*container, format!("started again ({restarts})")),
        Event::StartFailed { container, message } => (*container, format!("cannot start: {message}")),
        Event::Output { container, line, .. } => (*container, format!("| {line}")),
        Event::Hook { container, hook, exit_code: 0, took_ms, .. } => {
            (*container, format!("{hook} done after {took_ms} ms"))
        }
        Event::Hook { container, hook, exit_code, output, .. } => {
            (*container, format!("{hook} failed, exit code {exit_code}: {}", output.trim_end()))
        }
        Event::Stopping { container, signal, reason } => (*container, format!("gets {signal}: {reason}")),
        Event::Exited { container, exit_code, ignored, reason } => {
            let ignored = if *ignored { ", which does not count" } else { "" };
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            (*container, format!("ended, exit code {exit_code}{reason}{ignored}"))
        }
        Event::Restarting { container, delay_ms } => (*container, format!("restarts in {delay_ms} ms")),
        Event::Deleting { reason } => ("pod", format!("is deleted: {reason}")),
        Event::Finished { phase, container: Some(container), exit_code: Some(code) } => {
            ("pod", format!("{phase:?}: {container} ended with exit code {code}"))
        }
        Event::Finished { phase, .. } => ("pod", format!("{phase:?}")),
    };
    format!("{:>8.3}s  {who:<12} {what}", time_ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats() {
        let event = Event::Started { container: "app", restarts: 0, pid: 7 };
        let line = serde_json::to_string(&Line { time_ms: 12, event: &event }).unwrap();
        assert_eq!(line, r#"{"time_ms":12,"event":"started","container":"app","restarts":0,"pid":7}"#);
        assert_eq!(timeline(12, &event), "   0.012s  app          started");
        let exited = |reason| Event::Exited { container: "app", exit_code: 137, ignored: false, reason };
        assert!(!serde_json::to_string(&exited(None)).unwrap().contains("reason"));
        assert_eq!(
            timeline(12, &exited(Some("OOMKilled"))),
            "   0.012s  app          ended, exit code 137 (OOMKilled)"
        );
        let output = Event::Output { container: "app", stream: "stdout", line: "hello" };
        assert_eq!(timeline(1234, &output), "   1.234s  app          | hello");
    }
}
