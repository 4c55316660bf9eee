//! Task events, delivered to containerd in the order in which they happened.
//!
//! Everything that happens to a task is sent into one queue; one task empties
//! it into containerd's event service. The queue decouples: a request never
//! waits for containerd, which may be waiting for that very request.
//!
//! An event that containerd does not take, as while it restarts, is tried again
//! before any later one: clients must not hear of a deletion before the exit.
//! The shim crate's own publisher puts a failed event at the end of its queue.

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

/// How long containerd may take for one event; containerd's own shim's figure.
const ANSWER: Duration = Duration::from_secs(5);
/// How often an event is tried, and the pause in between: together longer than
/// a restart of containerd takes. What is lost after that it learns by asking
/// for the state of its tasks when it starts.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// How long a shim that is done waits for its last events to be taken.
const LAST_EVENTS: Duration = Duration::from_secs(3);

/// The sending end of the queue. Clones are cheap.
#[derive(Clone)]
pub(crate) struct Events(mpsc::UnboundedSender<Item>);

enum Item {
    Event(Box<dyn Event>),
    /// Answered when all before it are delivered.
    Mark(oneshot::Sender<()>),
}

impl Events {
    /// Connects to containerd at `address` and starts the delivery of events of
    /// `namespace`.
    ///
    /// # Errors
    /// When containerd can't be reached now: a shim that can't tell it anything
    /// is not to be started.
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

    /// Queues an event. It is dropped only when the shim is going down.
    pub(crate) fn send(&self, event: impl Event + 'static) {
        // The receiver lives as long as the event loop that runs us.
        let _ = self.0.send(Item::Event(Box::new(event)));
    }

    /// Waits, for a while, until everything sent so far is delivered.
    pub(crate) async fn flush(&self) {
        let (reached, mark) = oneshot::channel();
        let _ = self.0.send(Item::Mark(reached));
        if timeout(LAST_EVENTS, mark).await.is_err() {
            warn!("the last events were not taken by containerd within {LAST_EVENTS:?}");
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
        for attempt in 1..=TRIES {
            match self.forward(&request).await {
                Ok(()) => return,
                Err(e) if attempt == 1 => warn!("event {topic} is tried again: {e}"),
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
        error!("event {topic} is lost: containerd did not take it");
    }

    async fn forward(&mut self, request: &ForwardRequest) -> io::Result<()> {
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(Self::connect(&self.address).await?),
        };
        let answer = client
            .forward(context::with_duration(ANSWER), request)
            .await;
        answer.map(drop).map_err(|e| {
            self.client = None;
            io::Error::other(e)
        })
    }
}
