//! Ctrl-C and SIGTERM, which mean the same: stop cleanly. A second one means: at once.

use tokio::signal::unix::{SignalKind, signal};

use super::{EXIT_STOPPED_AT_ONCE, Failure, Outcome, output};

/// From its making on, the process does not die of these signals.
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub fn listen() -> Outcome<Signals> {
        let cannot = |error| Failure::new(format!("cannot listen for signals: {error}"));
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).map_err(cannot)?,
            terminate: signal(SignalKind::terminate()).map_err(cannot)?,
        })
    }

    /// Waits for one.
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// While something ends cleanly: a second signal ends the process.
    pub fn force_on_second(mut self) {
        tokio::spawn(async move {
            self.stop().await;
            output::note("stopped at once");
            std::process::exit(i32::from(EXIT_STOPPED_AT_ONCE));
        });
    }
}
