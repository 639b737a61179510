//! Which container of the Pod starts, restarts and ends, and when.
//!
//! Like kubelet's Pod worker it looks at the state it has, does the next thing, and waits for something to happen; a
//! postStart hook that blocks kubelet's worker blocks here too. It knows containers only by what is reported of them.
//! Two rules are ECI's, not kubelet's: [`Role::EciSidecar`], and exit codes that are ignored.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::pod::{Container, Hook, Pod, RestartPolicy, Role};
use crate::sandbox::{Message, Running, Sandbox};
use crate::timeline::Timeline;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// What kubelet leaves a container after SIGTERM even when the grace period is used up.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// The exit code of a container that could not be started (containerd's StartError).
const START_ERROR: i32 = 128;

/// How a Pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Every container that counts ended with exit code 0.
    Succeeded,
    /// One did not.
    Failed,
}

/// The Pod is deleted before its end.
struct Deleted;

#[derive(Debug)]
enum Status {
    /// Not running; may start from then on.
    Waiting(Instant),
    Running(Running),
    /// Ended for good.
    Ended(i32),
}

#[derive(Debug)]
struct State {
    status: Status,
    restarts: u32,
}

/// The life of one Pod.
#[derive(Debug)]
pub(crate) struct Lifecycle<'a> {
    pod: &'a Pod,
    sandbox: &'a Sandbox<'a>,
    messages: Receiver<Message>,
    timeline: Timeline,
    states: Vec<State>,
    /// podrun got a signal.
    deleted: bool,
    /// Nothing is restarted any more.
    ending: bool,
}

impl<'a> Lifecycle<'a> {
    /// A Pod whose containers have not started.
    pub(crate) fn new(pod: &'a Pod, sandbox: &'a Sandbox<'a>, messages: Receiver<Message>) -> Self {
        let state = |_| State { status: Status::Waiting(Instant::now()), restarts: 0 };
        let states = pod.spec.containers.iter().map(state).collect();
        let timeline = Timeline::new();
        Lifecycle { pod, sandbox, messages, timeline, states, deleted: false, ending: false }
    }

    /// Runs the Pod to its end.
    pub(crate) fn run(mut self) -> Result<Phase> {
        let lived = self.live();
        self.ending = true;
        if let Err(Deleted) = lived {
            self.timeline.print("pod", "is deleted");
            self.end("the Pod is deleted");
            bail!("the Pod was deleted by a signal");
        }
        self.end("the other containers have ended");
        Ok(self.phase())
    }

    /// Until no main container runs or will run.
    fn live(&mut self) -> Result<(), Deleted> {
        for index in 0..self.states.len() {
            match self.container(index).role {
                Role::Init | Role::NativeSidecar if !self.initialise(index)? => return Ok(()),
                _ => {}
            }
        }
        loop {
            self.start_due(self.states.len())?;
            let mut all = self.pod.spec.containers.iter().zip(&self.states);
            if all.all(|(container, state)| {
                container.role != Role::Main || matches!(state.status, Status::Ended(_))
            }) {
                return Ok(());
            }
            self.wait(self.states.len())?;
        }
    }

    /// Until what comes after an init container may start; whether it may.
    fn initialise(&mut self, index: usize) -> Result<bool, Deleted> {
        loop {
            self.start_due(index + 1)?;
            match self.states[index].status {
                Status::Ended(code) => return Ok(code == 0),
                Status::Running(_) if self.container(index).role == Role::NativeSidecar => return Ok(true),
                Status::Running(_) | Status::Waiting(_) => self.wait(index + 1)?,
            }
        }
    }

    /// Ends what still runs: main containers together, then native sidecars in reverse order.
    fn end(&mut self, reason: &str) {
        let deadline = self.deadline();
        let is_native = |index: &usize| self.container(*index).role == Role::NativeSidecar;
        let (native, others): (Vec<_>, Vec<_>) = (0..self.states.len()).partition(is_native);
        // All at the beginning, whenever the containers' turn comes.
        self.pre_stop(&[others.as_slice(), &native].concat(), deadline);
        self.terminate(&others, deadline, reason);
        for index in native.into_iter().rev() {
            self.terminate(&[index], deadline, reason);
        }
    }

    fn phase(&self) -> Phase {
        for (container, state) in self.pod.spec.containers.iter().zip(&self.states) {
            if let Status::Ended(code) = state.status
                && code != 0
                && !container.ignore_exit_code()
            {
                self.timeline.print("pod", format_args!("Failed ({} exited {code})", container.name));
                return Phase::Failed;
            }
        }
        self.timeline.print("pod", "Succeeded");
        Phase::Succeeded
    }

    fn container(&self, index: usize) -> &'a Container {
        &self.pod.spec.containers[index]
    }

    fn print(&self, index: usize, what: impl std::fmt::Display) {
        self.timeline.print(&self.container(index).name, what);
    }

    /// Starts those of the first `count` containers that are due.
    fn start_due(&mut self, count: usize) -> Result<(), Deleted> {
        for index in 0..count {
            if matches!(self.states[index].status, Status::Waiting(from) if from <= Instant::now()) {
                self.start(index)?;
            }
        }
        Ok(())
    }

    /// Starts a container and, like kubelet, goes on only when its postStart hook is through.
    fn start(&mut self, index: usize) -> Result<(), Deleted> {
        match self.sandbox.start(index, self.states[index].restarts) {
            Ok(running) => {
                self.print(index, format_args!("started (pid {})", running.pid));
                self.states[index].status = Status::Running(running);
            }
            Err(error) => {
                self.print(index, format_args!("cannot start ({error:#})"));
                self.ended(index, START_ERROR);
                return Ok(());
            }
        }
        if self.container(index).hook(Hook::PostStart).is_some() && !self.post_start(index)? {
            let deadline = self.deadline();
            self.pre_stop(&[index], deadline);
            self.terminate(&[index], deadline, "its postStart hook failed");
        }
        Ok(())
    }

    /// When a container whose end begins now is killed.
    fn deadline(&self) -> Instant {
        Instant::now() + self.pod.spec.grace()
    }

    /// Begins to run a hook of a container, if it has it and runs; whether it did.
    fn begin(&self, index: usize, hook: Hook) -> bool {
        let Status::Running(running) = &self.states[index].status else { return false };
        let Some(command) = self.container(index).hook(hook) else { return false };
        let begun = self.sandbox.hook(index, running, hook, command);
        if let Err(error) = &begun {
            self.print(index, format_args!("{hook} cannot run ({error:#})"));
        }
        begun.is_ok()
    }

    /// Runs a postStart hook to its end; whether it succeeded.
    fn post_start(&mut self, index: usize) -> Result<bool, Deleted> {
        if !self.begin(index, Hook::PostStart) {
            return Ok(false);
        }
        loop {
            let message = self.receive(None);
            if self.deleted {
                return Err(Deleted);
            }
            if let Some(Message::Hook { hook: Hook::PostStart, code, .. }) = message {
                return Ok(code == 0);
            }
        }
    }

    /// Waits until something happens, or one of the first `count` containers is due.
    fn wait(&mut self, count: usize) -> Result<(), Deleted> {
        let due = self.states[..count].iter().filter_map(|state| match state.status {
            Status::Waiting(from) => Some(from),
            Status::Running(_) | Status::Ended(_) => None,
        });
        if !self.deleted {
            self.receive(due.min());
        }
        if self.deleted { Err(Deleted) } else { Ok(()) }
    }

    /// Waits for a report, prints it, and keeps the states. None when the time is up.
    fn receive(&mut self, until: Option<Instant>) -> Option<Message> {
        let message = match until {
            Some(until) => self.messages.recv_timeout(until.saturating_duration_since(Instant::now())),
            None => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let message = message.ok()?;
        match &message {
            Message::Output { container, line } => self.print(*container, format_args!("| {line}")),
            Message::Exited { container, code } => self.ended(*container, *code),
            Message::Hook { container, hook, code, took, output } => {
                let took = took.as_millis();
                let said = output.trim().replace('\n', "; ");
                let colon = if said.is_empty() { "" } else { ": " };
                self.print(*container, format_args!("{hook} exited {code} ({took} ms){colon}{said}"));
            }
            Message::Signal => self.deleted = true,
        }
        Some(message)
    }

    /// A container's process ended: it is restarted, or ended for good.
    fn ended(&mut self, index: usize, code: i32) {
        self.print(index, format_args!("exited {code}"));
        let restart = match (self.container(index).role, self.pod.spec.restart_policy) {
            (Role::NativeSidecar, _) => true,
            (_, RestartPolicy::Never) => false,
            (Role::Init, _) | (_, RestartPolicy::OnFailure) => code != 0,
            (Role::Main | Role::EciSidecar, RestartPolicy::Always) => true,
        };
        let state = &mut self.states[index];
        state.status = if restart && !self.ending {
            let delay = (FIRST_BACKOFF * 2u32.pow(state.restarts.min(8))).min(LONGEST_BACKOFF);
            state.restarts += 1;
            Status::Waiting(Instant::now() + delay)
        } else {
            Status::Ended(code)
        };
    }

    /// Runs the preStop hooks of containers together, to their end or the deadline; none where there is no time.
    fn pre_stop(&mut self, indices: &[usize], deadline: Instant) {
        if self.pod.spec.grace().is_zero() {
            return;
        }
        let mut run = indices.iter().filter(|index| self.begin(**index, Hook::PreStop)).count();
        while run > 0 && Instant::now() < deadline {
            if let Some(Message::Hook { hook: Hook::PreStop, .. }) = self.receive(Some(deadline)) {
                run -= 1;
            }
        }
    }

    /// Ends containers together: SIGTERM, and SIGKILL when the time is up.
    fn terminate(&mut self, indices: &[usize], deadline: Instant, reason: &str) {
        self.kill(indices, "SIGTERM", reason);
        let mut deadline = Some(deadline.max(Instant::now() + LEAST_GRACE));
        while indices.iter().any(|index| matches!(self.states[*index].status, Status::Running(_))) {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                self.kill(indices, "SIGKILL", "it did not end in time");
                deadline = None;
            }
            self.receive(deadline);
        }
    }

    fn kill(&self, indices: &[usize], signal: &str, reason: &str) {
        for index in indices {
            if let Status::Running(running) = &self.states[*index].status {
                self.print(*index, format_args!("gets {signal} ({reason})"));
                self.sandbox.kill(running, signal);
            }
        }
    }
}
