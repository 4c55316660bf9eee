//! Task events, delivered to containerd in the order in which they happened.
//!
//! Everything that happens to a task is sent into one queue; one task empties
//! it into containerd's event service. The queue decouples: a request never
//! waits for containerd, which may be waiting for that very request.

use containerd_shim::{Context, event::Event, publisher::RemotePublisher};
use log::error;
use tokio::sync::mpsc;

/// The sending end of the queue. Clones are cheap.
#[derive(Clone)]
pub(crate) struct Events(mpsc::UnboundedSender<Box<dyn Event>>);

impl Events {
    /// Starts the delivery of events of `namespace` through `publisher`, which
    /// reconnects and retries while containerd restarts.
    pub(crate) fn deliver(publisher: RemotePublisher, namespace: String) -> Self {
        let (queue, mut events) = mpsc::unbounded_channel::<Box<dyn Event>>();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let topic = event.topic();
                if let Err(e) = publisher
                    .publish(Context::default(), &topic, &namespace, event)
                    .await
                {
                    error!("event {topic} is lost, containerd did not take it: {e}");
                }
            }
        });
        Self(queue)
    }

    /// Queues an event. It is dropped only when the shim is going down.
    pub(crate) fn send(&self, event: impl Event + 'static) {
        // The receiver lives as long as the runtime that runs us.
        let _ = self.0.send(Box::new(event));
    }
}
