//! Which container of the Pod starts, restarts and stops, and when.
//!
//! Like kubelet's Pod worker it looks at the state it has, does the next thing, and waits for something to
//! happen; a hook that blocks kubelet's worker blocks here too, while probes go on beside it. It knows
//! containers only by what is reported of them. Three rules are the serverless platform's, not kubelet's:
//! [`Role::EciSidecar`], exit codes that are ignored, and priorities at the start.

use std::ops::RangeBounds;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fluid_sidecar_layout::contract::MOUNT_ROOT;

use crate::cli::Options;
use crate::event::{Event, Events, Phase};
use crate::pod::{Container, Plan, Restart, Role};
use crate::probes::{Condemned, Probers};
use crate::sandbox::{Message, Running, Sandbox};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// What kubelet leaves a container even when the grace period is used up.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// How long a process may take to die of SIGKILL before podrun gives up waiting for it.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// The exit code of a container that could not be started (containerd's StartError).
const START_ERROR: i32 = 128;

/// Why the Pod is deleted before its end.
struct Deletion(String);
type Step<T = ()> = Result<T, Deletion>;

enum Status {
    /// Not running; may start from then on.
    Waiting(Instant),
    Running(Running),
    /// Ended for good.
    Ended(i32),
}

struct State<'a> {
    status: Status,
    restarts: u32,
    probers: Probers<'a>,
    /// A probe wants it ended.
    condemned: Option<Condemned>,
}

impl State<'_> {
    fn runs(&self) -> bool {
        matches!(self.status, Status::Running(_))
    }
}

/// The life of one Pod.
pub struct Lifecycle<'a> {
    plan: &'a Plan,
    sandbox: &'a Sandbox<'a>,
    messages: Receiver<Message>,
    events: Events,
    max_restarts: u32,
    timeout: Duration,
    deadline: Instant,
    states: Vec<State<'a>>,
    /// The signal that podrun got.
    signal: Option<&'static str>,
    /// Nothing is restarted any more.
    ending: bool,
}

impl<'a> Lifecycle<'a> {
    /// A Pod whose containers have not started.
    pub fn new(
        plan: &'a Plan,
        sandbox: &'a Sandbox<'a>,
        messages: Receiver<Message>,
        events: Events,
        options: &Options,
    ) -> Self {
        let now = Instant::now();
        let state = |_| State {
            status: Status::Waiting(now),
            restarts: 0,
            probers: Probers::default(),
            condemned: None,
        };
        let states = plan.containers.iter().map(state).collect();
        let (max_restarts, timeout) = (options.max_restarts, options.timeout);
        let (deadline, signal, ending) = (now + timeout, None, false);
        Lifecycle { plan, sandbox, messages, events, max_restarts, timeout, deadline, states, signal, ending }
    }

    /// Runs the Pod to its end.
    pub fn run(mut self) -> Result<Phase> {
        self.events.emit(&Event::Runtime { name: self.sandbox.runtime() });
        for message in self.plan.notes.iter().chain(&self.sandbox.notes) {
            self.events.emit(&Event::Note { message });
        }
        let lived = self.live();
        self.ending = true;
        match lived {
            Ok(culprit) => {
                self.end("the other containers have ended");
                Ok(self.phase(culprit))
            }
            Err(Deletion(reason)) => {
                self.events.emit(&Event::Deleting { reason: &reason });
                self.end("the Pod is deleted");
                bail!("the Pod was deleted: {reason}")
            }
        }
    }

    /// Until no main container runs or will run. Gives the init container that kept them from starting.
    fn live(&mut self) -> Step<Option<usize>> {
        for index in 0..self.states.len() {
            if matches!(self.container(index).role, Role::Init | Role::NativeSidecar)
                && !self.initialise(index)?
            {
                return Ok(Some(index));
            }
        }
        loop {
            self.sync(..)?;
            let mut main = self.plan.containers.iter().zip(&self.states);
            if main.all(|(container, state)| {
                container.role != Role::Main || matches!(state.status, Status::Ended(_))
            }) {
                return Ok(None);
            }
            self.wait(..)?;
        }
    }

    /// Until what comes after an init container may start; whether it may.
    fn initialise(&mut self, index: usize) -> Step<bool> {
        let role = self.container(index).role;
        loop {
            self.sync(..=index)?;
            match self.states[index].status {
                Status::Ended(code) => return Ok(role == Role::Init && code == 0),
                Status::Running(_)
                    if role == Role::NativeSidecar && self.states[index].probers.started_up() =>
                {
                    return Ok(true);
                }
                Status::Running(_) | Status::Waiting(_) => self.wait(..=index)?,
            }
        }
    }

    /// Ends what still runs: main containers together, then native sidecars in reverse order.
    fn end(&mut self, reason: &str) {
        let deadline = Instant::now() + self.plan.grace;
        let is_native = |index: &usize| self.plan.containers[*index].role == Role::NativeSidecar;
        let (native, others): (Vec<_>, Vec<_>) = (0..self.states.len()).partition(is_native);
        self.terminate(&others, deadline, reason);
        for index in native.into_iter().rev() {
            self.terminate(&[index], deadline.max(Instant::now() + LEAST_GRACE), reason);
        }
    }

    fn phase(&self, culprit: Option<usize>) -> Phase {
        let exit_code = |index: usize| match self.states[index].status {
            Status::Ended(code) => code,
            Status::Waiting(_) | Status::Running(_) => 0,
        };
        let counts = |index: &usize| {
            let container = self.container(*index);
            container.role != Role::NativeSidecar && !container.ignore_exit_code && exit_code(*index) != 0
        };
        let culprit = culprit.or_else(|| (0..self.states.len()).find(counts));
        let phase = if culprit.is_some() { Phase::Failed } else { Phase::Succeeded };
        let container = culprit.map(|index| self.container(index).name.as_str());
        self.events.emit(&Event::Finished { phase, container, exit_code: culprit.map(exit_code) });
        phase
    }

    fn container(&self, index: usize) -> &'a Container {
        &self.plan.containers[index]
    }

    /// Ends containers whose probes failed, and starts those that are due.
    fn sync(&mut self, range: impl RangeBounds<usize>) -> Step {
        for index in 0..self.states.len() {
            let state = &self.states[index];
            if let Some(condemned) = state.condemned.filter(|_| state.runs() && range.contains(&index)) {
                let grace = condemned.grace.unwrap_or(self.plan.grace);
                self.terminate(&[index], Instant::now() + grace, condemned.reason);
            }
        }
        let mut order: Vec<_> = (0..self.states.len()).filter(|index| range.contains(index)).collect();
        order.sort_by_key(|index| -i64::from(self.launch_priority(*index)));
        for index in order {
            let due = matches!(self.states[index].status, Status::Waiting(from) if from <= Instant::now());
            if due && !self.is_held_up(index) {
                self.start(index)?;
            }
        }
        Ok(())
    }

    /// Priorities are of main containers only: these start after all init containers.
    fn launch_priority(&self, index: usize) -> i32 {
        let container = self.container(index);
        match container.role {
            Role::Main | Role::EciSidecar => container.launch_priority,
            Role::Init | Role::NativeSidecar => i32::MAX,
        }
    }

    /// Whether the first start must wait for a container of a higher priority to be ready. One that ended for
    /// good will never be: were it waited for, the Pod would not end.
    fn is_held_up(&self, index: usize) -> bool {
        if self.states[index].restarts > 0 {
            return false;
        }
        let priority = self.launch_priority(index);
        self.states.iter().enumerate().any(|(other, state)| {
            let main = matches!(self.container(other).role, Role::Main | Role::EciSidecar);
            let settled = match state.status {
                Status::Waiting(_) => false,
                Status::Running(_) => state.probers.ready(),
                Status::Ended(_) => true,
            };
            main && self.launch_priority(other) > priority && !settled
        })
    }

    /// Starts a container and, like kubelet, goes on only when its postStart hook is through.
    fn start(&mut self, index: usize) -> Step {
        let container = self.container(index);
        let (name, restarts) = (container.name.as_str(), self.states[index].restarts);
        if container.vfuse {
            let shared = format!("a shared {MOUNT_ROOT}");
            let what = ["/dev/fuse", "CAP_SYS_ADMIN", &shared];
            self.events.emit(&Event::Granted {
                container: name,
                resource: &self.plan.vfuse_resource,
                what: &what,
            });
        }
        match self.sandbox.start(index, restarts) {
            Ok(running) => {
                let pid = running.pid.as_raw();
                // Probes begin now, not when the hook is through: this container may wait for its own readiness.
                self.states[index].probers = Probers::new(container, Instant::now());
                self.states[index].status = Status::Running(running);
                self.events.emit(&Event::Started { container: name, restarts, pid });
            }
            Err(error) => {
                let message = format!("{error:#}");
                self.events.emit(&Event::StartFailed { container: name, message: &message });
                self.ended(index, START_ERROR, false);
                return Ok(());
            }
        }
        if let Some(command) = &container.post_start
            && !self.hook(index, "postStart", command)?
        {
            self.terminate(&[index], Instant::now() + self.plan.grace, "its postStart hook failed");
        }
        Ok(())
    }

    /// Runs a hook or probe to its end; whether it succeeded.
    fn hook(&mut self, index: usize, hook: &'static str, command: &[String]) -> Step<bool> {
        if !self.begin_hook(index, hook, command, None) {
            return Ok(false);
        }
        loop {
            if let Some(Message::Hook { container, hook: ended, code, .. }) = self.next(None)?
                && (container, ended) == (index, hook)
            {
                return Ok(code == 0);
            }
        }
    }

    fn begin_hook(
        &self,
        index: usize,
        hook: &'static str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> bool {
        let Status::Running(running) = &self.states[index].status else { return false };
        self.sandbox.hook(index, running, hook, command, timeout).is_ok()
    }

    /// Begins the probes that are due; gives when the next one is.
    fn begin_probes(&mut self) -> Option<Instant> {
        for index in 0..self.states.len() {
            while let Some((kind, probe)) = self.states[index].probers.take_due(Instant::now()) {
                if !self.begin_hook(index, kind.field(), &probe.command, Some(probe.timeout)) {
                    self.judge(index, kind.field(), false);
                }
            }
        }
        self.states.iter().filter_map(|state| state.probers.due()).min()
    }

    /// Takes the result of a probe; whether it is worth an event.
    fn judge(&mut self, index: usize, field: &str, success: bool) -> bool {
        let state = &mut self.states[index];
        let verdict = state.probers.result(field, success, Instant::now());
        state.condemned = state.condemned.or(verdict.and_then(|verdict| verdict.condemned));
        verdict.is_some_and(|verdict| verdict.tell)
    }

    /// Waits until something happens or something is due for a container of the range.
    fn wait(&mut self, range: impl RangeBounds<usize>) -> Step {
        let now = Instant::now();
        let due = self.states.iter().enumerate().filter_map(|(index, state)| match state.status {
            _ if !range.contains(&index) => None,
            Status::Waiting(from) => Some(from).filter(|_| !self.is_held_up(index)),
            Status::Running(_) => state.condemned.map(|_| now),
            Status::Ended(_) => None,
        });
        self.next(due.min()).map(|_| ())
    }

    fn next(&mut self, until: Option<Instant>) -> Step<Option<Message>> {
        let until = until.map_or(self.deadline, |until| until.min(self.deadline));
        let message = if self.signal.is_none() { self.receive(until) } else { None };
        if let Some(signal) = self.signal {
            return Err(Deletion(format!("podrun got {signal}")));
        }
        if message.is_none() && Instant::now() >= self.deadline {
            return Err(Deletion(format!("it has not ended within {:?} (--timeout)", self.timeout)));
        }
        Ok(message)
    }

    /// Waits for a report, keeps the states, and tells of it. None when the time is up.
    fn receive(&mut self, until: Instant) -> Option<Message> {
        loop {
            let probe = self.begin_probes().filter(|probe| *probe < until);
            let pause = probe.unwrap_or(until).saturating_duration_since(Instant::now());
            let message = match self.messages.recv_timeout(pause) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) if probe.is_some() => continue,
                Err(_) => return None,
            };
            match &message {
                Message::Output { container, stream, line } => {
                    let container = &self.container(*container).name;
                    self.events.emit(&Event::Output { container, stream, line });
                    continue;
                }
                Message::Exited { container, code, out_of_memory } => {
                    self.ended(*container, *code, *out_of_memory);
                }
                Message::Hook { container, attempt, hook, code, took, output } => {
                    // A probe of the container's last run says nothing of this one.
                    let current = *attempt == self.states[*container].restarts;
                    let probe = hook.ends_with("Probe");
                    if probe && !(current && self.judge(*container, hook, *code == 0)) {
                        return Some(message);
                    }
                    let (container, took_ms) = (&self.container(*container).name, took.as_millis());
                    self.events.emit(&Event::Hook { container, hook, exit_code: *code, took_ms, output });
                }
                Message::Signal(signal) => self.signal = Some(signal),
            }
            return Some(message);
        }
    }

    /// A container's process ended: it is restarted, or ended for good.
    fn ended(&mut self, index: usize, exit_code: i32, out_of_memory: bool) {
        let container = self.container(index);
        let ignored = exit_code != 0 && (container.ignore_exit_code || container.role == Role::NativeSidecar);
        let reason = out_of_memory.then_some("OOMKilled");
        self.events.emit(&Event::Exited { container: &container.name, exit_code, ignored, reason });
        let restart = self.is_restarted(index, exit_code);
        let state = &mut self.states[index];
        (state.probers, state.condemned) = (Probers::default(), None);
        let status = if restart && !self.ending && state.restarts < self.max_restarts {
            let delay = (FIRST_BACKOFF * 2u32.pow(state.restarts.min(8))).min(LONGEST_BACKOFF);
            state.restarts += 1;
            self.events.emit(&Event::Restarting { container: &container.name, delay_ms: delay.as_millis() });
            Status::Waiting(Instant::now() + delay)
        } else {
            Status::Ended(exit_code)
        };
        if let Status::Running(running) = std::mem::replace(&mut state.status, status) {
            self.sandbox.remove(running);
        }
    }

    /// Whether the policy has a container started again. One that a probe had ended is, whatever it said.
    fn is_restarted(&self, index: usize, exit_code: i32) -> bool {
        let failed = exit_code != 0 || self.states[index].condemned.is_some();
        match (self.container(index).role, self.plan.restart) {
            (Role::NativeSidecar, _) => true,
            (_, Restart::Never) => false,
            (Role::Init, _) | (_, Restart::OnFailure) => failed,
            (Role::Main | Role::EciSidecar, Restart::Always) => true,
        }
    }

    /// Ends containers together: preStop, SIGTERM, and SIGKILL when the time is up or podrun is signalled.
    fn terminate(&mut self, indices: &[usize], mut deadline: Instant, reason: &str) {
        for index in indices {
            self.states[*index].probers = Probers::default();
            match &self.container(*index).pre_stop {
                Some(command) if self.begin_hook(*index, "preStop", command, None) => {}
                _ => self.kill(*index, "SIGTERM", reason),
            }
        }
        let mut killed = false;
        while indices.iter().any(|index| self.states[*index].runs()) {
            match self.receive(deadline) {
                Some(Message::Hook { container, hook: "preStop", .. }) if indices.contains(&container) => {
                    self.kill(container, "SIGTERM", reason);
                }
                Some(Message::Signal(_)) => deadline = deadline.min(Instant::now()),
                Some(_) => {}
                None if killed => {
                    let still: Vec<_> = indices.iter().filter(|index| self.states[**index].runs()).collect();
                    still.into_iter().for_each(|index| self.ended(*index, 137, false));
                }
                None => {
                    indices.iter().for_each(|index| self.kill(*index, "SIGKILL", "it did not end in time"));
                    (killed, deadline) = (true, Instant::now() + KILL_WAIT);
                }
            }
        }
    }

    fn kill(&self, index: usize, signal: &str, reason: &str) {
        if let Status::Running(running) = &self.states[index].status {
            let container = &self.container(index).name;
            self.events.emit(&Event::Stopping { container, signal, reason });
            self.sandbox.kill(running, signal);
        }
    }
}
