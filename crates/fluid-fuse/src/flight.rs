//! One request for all operations with the same question (singleflight): the first makes it, the others wait for its answer.
//!
//! An operation that can be rerun ([`run`]) waits without a thread: [`Flights::ask`] notes the flight that it has to wait
//! for and makes it end, [`run`] returns that flight, and the caller reruns the operation when the flight has landed. Other operations block their threads until their deadlines. All that
//! have waited get the same failure, and only the first one logs it ([`is_repeated`]). This module knows neither the
//! questions nor the threads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::limits::{Deadline, Until};
use crate::outage::Availability;
use crate::store::StoreError;
use crate::sync::lock;

/// Called when a flight has landed.
type Continuation = Box<dyn FnOnce(Arc<Flight>) + Send>;

/// The requests of one source that are under way, by what they ask for.
pub(crate) struct Flights {
    availability: Arc<Availability>,
    flights: Mutex<HashMap<String, Arc<Flight>>>,
}

/// A request that is under way, or has ended.
pub(crate) struct Flight {
    key: String,
    /// The deadline of the operation that makes the request.
    deadline: Option<Arc<Deadline>>,
    availability: Arc<Availability>,
    state: Mutex<FlightState>,
    landed: Condvar,
}

#[derive(Default)]
struct FlightState {
    outcome: Option<Result<(), StoreError>>,
    waiting: Vec<Continuation>,
}

/// The state of an operation that can be rerun.
#[derive(Default)]
struct Rerunnable {
    /// The flight that it has waited for.
    landed: Option<Arc<Flight>>,
    /// The flight that it has to wait for now.
    waits_for: Option<Arc<Flight>>,
}

thread_local! {
    /// The operation on this thread, if it can be rerun.
    static OPERATION: RefCell<Option<Rerunnable>> = const { RefCell::new(None) };
    /// Whether the last failure on this thread was that of another operation's request.
    static IS_REPEATED: Cell<bool> = const { Cell::new(false) };
}

/// Runs an operation that can be rerun, with the flight that it has waited for. Returns its result, or the flight that it
/// has to wait for; then it has to be rerun.
pub(crate) fn run<T>(landed: Option<Arc<Flight>>, operation: impl FnOnce() -> T) -> Result<T, Arc<Flight>> {
    /// Clears the state of the thread, also after a panic, since the thread runs other operations, too.
    struct ClearOnDrop;
    impl Drop for ClearOnDrop {
        fn drop(&mut self) {
            OPERATION.take();
        }
    }
    IS_REPEATED.set(false);
    OPERATION.set(Some(Rerunnable { landed, waits_for: None }));
    let _clear = ClearOnDrop;
    let result = operation();
    match OPERATION.take().and_then(|operation| operation.waits_for) {
        Some(flight) => Err(flight),
        None => Ok(result),
    }
}

/// Notes that an operation that cannot be rerun starts on this thread.
pub(crate) fn alone() {
    IS_REPEATED.set(false);
}

/// Whether the operation on this thread failed by the request of another one, which has logged the failure.
pub(crate) fn is_repeated() -> bool {
    IS_REPEATED.get()
}

impl Flights {
    /// The flights to a source, whose availability counts the operations that wait.
    pub(crate) fn new(availability: Arc<Availability>) -> Self {
        Flights { availability, flights: Mutex::default() }
    }

    /// Returns the cached answer, makes the request, or waits for another operation's request with the same key.
    pub(crate) fn ask<T>(
        &self,
        key: &str,
        cached: impl Fn() -> Option<T>,
        request: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let failed = OPERATION.with_borrow_mut(|operation| {
            let landed = operation.as_mut()?.landed.take_if(|flight| flight.key == key)?;
            lock(&landed.state).outcome.clone()?.err()
        });
        if let Some(error) = failed {
            IS_REPEATED.set(true);
            return Err(error);
        }
        loop {
            let flight = {
                let mut flights = lock(&self.flights);
                match flights.get(key) {
                    Some(flight) => Arc::clone(flight),
                    None => {
                        let flight = Arc::new(Flight {
                            key: key.to_string(),
                            deadline: Until::shared(),
                            availability: Arc::clone(&self.availability),
                            state: Mutex::default(),
                            landed: Condvar::new(),
                        });
                        flights.insert(key.to_string(), Arc::clone(&flight));
                        drop(flights);
                        let landing = Landing { flights: self, flight, outcome: None };
                        return landing.with(cached().map_or_else(request, Ok));
                    }
                }
            };
            let can_leave = OPERATION.with_borrow_mut(|operation| {
                operation.as_mut().map(|operation| operation.waits_for = Some(Arc::clone(&flight)))
            });
            if can_leave.is_some() {
                return Err(late());
            }
            flight.wait()?;
            if let Some(answer) = cached() {
                return Ok(answer);
            }
        }
    }
}

fn late() -> StoreError {
    StoreError::Unavailable("others have waited for the store for all of the time".into())
}

impl Flight {
    /// Calls the continuation of an operation with this deadline when the flight has landed.
    pub(crate) fn then(self: &Arc<Self>, deadline: &Arc<Deadline>, continuation: Continuation) {
        if let Some(leader) = &self.deadline {
            deadline.follow(leader);
        }
        let mut state = lock(&self.state);
        if state.outcome.is_none() {
            self.availability.parked(1);
            return state.waiting.push(continuation);
        }
        drop(state);
        continuation(Arc::clone(self));
    }

    /// Blocks this thread until the flight has landed, or the deadline.
    fn wait(&self) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if let (Some(own), Some(leader)) = (Until::shared(), &self.deadline) {
            own.follow(leader);
        }
        loop {
            if let Some(outcome) = &state.outcome {
                IS_REPEATED.set(outcome.is_err());
                return outcome.clone();
            }
            let left = Until::moment().map(|moment| moment.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) if left.is_zero() => return Err(late()),
                Some(left) => self.landed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.landed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Ends the flight when it is dropped, also after a panic.
struct Landing<'a> {
    flights: &'a Flights,
    flight: Arc<Flight>,
    outcome: Option<Result<(), StoreError>>,
}

impl Landing<'_> {
    fn with<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.outcome = Some(result.as_ref().map(|_| ()).map_err(StoreError::clone));
        result
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(&self.flights.flights).remove(&self.flight.key);
        let outcome = self.outcome.take();
        let outcome =
            outcome.unwrap_or_else(|| Err(StoreError::Failed("a fault of the program, told before".into())));
        let mut state = lock(&self.flight.state);
        state.outcome = Some(outcome);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.flight.landed.notify_all();
        self.flight.availability.parked(-(waiting.len() as isize));
        for continuation in waiting {
            continuation(Arc::clone(&self.flight));
        }
    }
}
