//! Delivers task events to containerd in the order in which they happened.
//!
//! All events go through one queue, which a background loop forwards to containerd's
//! event service. So a request never waits for containerd, which may itself wait for
//! that request.
//!
//! An event that containerd does not accept, for example during a restart, is retried
//! before any later one: clients must not see a deletion before the exit. The shim
//! crate's own publisher puts a failed event at the end of its queue.

use std::{io, time::Duration};

use containerd_shim::{
    event::Event,
    protos::{
        protobuf::MessageField,
        shim::{event::Envelope, events::ForwardRequest},
        shim_async::{Client, EventsClient},
        ttrpc::context,
    },
    util::{convert_to_any, timestamp},
};
use log::{error, warn};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

/// The time limit for one event, the same as in containerd's own shim.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of attempts for an event, and the pause between them: together longer
/// than a restart of containerd. An event that is lost after that matters little:
/// containerd requests the state of its tasks when it starts.
const ATTEMPTS: u32 = 60;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The time for which an exiting shim waits for the delivery of its last events.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// The sending end of the queue. Clones are cheap.
#[derive(Clone)]
pub(crate) struct Events(mpsc::UnboundedSender<Item>);

enum Item {
    Event(Box<dyn Event>),
    /// Answered when all earlier events are delivered.
    Mark(oneshot::Sender<()>),
}

impl Events {
    /// Connects to containerd at `address` and starts the delivery of events of
    /// `namespace`.
    ///
    /// # Errors
    /// When containerd can't be reached: a shim that can't deliver events must not
    /// start.
    pub(crate) async fn deliver(address: String, namespace: String) -> io::Result<Self> {
        let address = match address.strip_prefix("unix://") {
            Some(_) => address,
            None => format!("unix://{address}"),
        };
        let mut containerd = Containerd {
            client: Some(Containerd::connect(&address).await?),
            address,
        };
        let (queue, mut items) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(item) = items.recv().await {
                match item {
                    Item::Event(event) => containerd.take(event, &namespace).await,
                    // The requester may have stopped waiting.
                    Item::Mark(reached) => drop(reached.send(())),
                }
            }
        });
        Ok(Self(queue))
    }

    /// Queues an event. Events are dropped only when the shim exits.
    pub(crate) fn send(&self, event: impl Event + 'static) {
        // The receiver lives as long as the event loop.
        let _ = self.0.send(Item::Event(Box::new(event)));
    }

    /// Waits until all queued events are delivered, for `FLUSH_TIMEOUT` at most.
    pub(crate) async fn flush(&self) {
        let (reached, mark) = oneshot::channel();
        let _ = self.0.send(Item::Mark(reached));
        if timeout(FLUSH_TIMEOUT, mark).await.is_err() {
            warn!("containerd did not accept the last events within {FLUSH_TIMEOUT:?}");
        }
    }
}

/// containerd's event service.
struct Containerd {
    address: String,
    client: Option<EventsClient>,
}

impl Containerd {
    async fn connect(address: &str) -> io::Result<EventsClient> {
        let client = Client::connect(address).await.map_err(io::Error::other)?;
        Ok(EventsClient::new(client))
    }

    async fn take(&mut self, event: Box<dyn Event>, namespace: &str) {
        let topic = event.topic();
        let envelope = timestamp().and_then(|timestamp| {
            Ok(Envelope {
                timestamp: MessageField::some(timestamp),
                namespace: namespace.to_owned(),
                topic: topic.clone(),
                event: MessageField::some(convert_to_any(event)?),
                ..Envelope::default()
            })
        });
        let request = match envelope {
            Ok(envelope) => ForwardRequest {
                envelope: MessageField::some(envelope),
                ..ForwardRequest::default()
            },
            Err(e) => return error!("event {topic} can't be encoded: {e}"),
        };
        for attempt in 1..=ATTEMPTS {
            match self.forward(&request).await {
                Ok(()) => return,
                Err(e) if attempt == 1 => warn!("event {topic} is tried again: {e}"),
                Err(_) => {}
            }
            sleep(RETRY_INTERVAL).await;
        }
        error!("event {topic} is lost: containerd did not accept it");
    }

    async fn forward(&mut self, request: &ForwardRequest) -> io::Result<()> {
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(Self::connect(&self.address).await?),
        };
        let answer = client
            .forward(context::with_duration(ANSWER_TIMEOUT), request)
            .await;
        answer.map(drop).map_err(|e| {
            self.client = None;
            io::Error::other(e)
        })
    }
}
