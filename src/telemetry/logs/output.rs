//! How a line gets to standard error: at once, or by a thread of its own.
//!
//! A pipe whose reader is slow blocks whoever writes. In a server that would be the threads that serve requests, one
//! after the other. So a thread writes, and lines wait for it in a queue; where that is full, lines are dropped and
//! counted, and the thread says how many before it goes on. So what must not be lost is not in the log alone: audit
//! events are rows, too, but for those that a flood pushes out.

use std::io::{Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Lines that may wait.
const QUEUE: usize = 8_192;
/// How long the end waits for them, in steps.
const FLUSH: (u32, Duration) = (200, Duration::from_millis(10));

/// Where lines go.
#[derive(Clone)]
pub(super) enum Output {
    /// To standard error at once.
    Direct,
    /// To the thread that writes them.
    Queued(Arc<Queue>),
}

pub(super) struct Queue {
    sender: SyncSender<Order>,
    /// Lines that found no room since the thread has said so last.
    lost: Arc<AtomicU64>,
}

enum Order {
    Line(String),
    /// Tells that everything before it is written.
    Tell(SyncSender<()>),
}

impl Output {
    /// Starts the thread; `notice` is the line that says how many were lost.
    pub(super) fn queued(notice: impl Fn(u64) -> String + Send + 'static) -> std::io::Result<Self> {
        let (sender, orders) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new().name("log".into()).spawn(move || write_all(&orders, &counted, notice))?;
        Ok(Self::Queued(Arc::new(Queue { sender, lost })))
    }

    /// Writes a line, or has it written.
    pub(super) fn write(&self, line: String) {
        match self {
            Self::Direct => write(&line),
            Self::Queued(queue) => {
                if queue.sender.try_send(Order::Line(line)).is_err() {
                    queue.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Waits until everything is written, but not for ever.
    pub(super) fn flush(&self) {
        let Self::Queued(queue) = self else { return };
        let (tell, told) = sync_channel(1);
        let (steps, step) = FLUSH;
        let mut order = Order::Tell(tell);
        for _ in 0..steps {
            match queue.sender.try_send(order) {
                Ok(()) => {
                    let _ = told.recv_timeout(step * steps);
                    return;
                }
                Err(TrySendError::Full(back)) => order = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(step);
        }
    }
}

fn write_all(orders: &Receiver<Order>, lost: &AtomicU64, notice: impl Fn(u64) -> String) {
    while let Ok(order) = orders.recv() {
        let lines = lost.swap(0, Ordering::Relaxed);
        if lines > 0 {
            write(&notice(lines));
        }
        match order {
            Order::Line(line) => write(&line),
            // Whoever waited may have gone.
            Order::Tell(tell) => drop(tell.try_send(())),
        }
    }
}

/// One call, so that lines of several processes do not mix. There is nobody to tell of a failure.
fn write(line: &str) {
    drop(stderr().lock().write_all(line.as_bytes()));
}
