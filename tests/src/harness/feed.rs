//! Event streams, as lines that people read.

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{
    Action, DumpViewRequest, Event, EventKind, GetAtRequest, HistoryRequest, SubscribeRequest,
    SubscribeResponse, get_at_request,
};
use tonic::{Status, Streaming};

use super::clients::{Fields, Objects, as_text, entries};

/// A subscription.
#[derive(Debug)]
pub struct Feed {
    responses: Streaming<SubscribeResponse>,
    waiting: std::collections::VecDeque<Event>,
    /// The newest cursor of a batch that has been handed out in full.
    pub cursor: Vec<u8>,
    /// The newest progress.
    pub progress: u64,
}

impl Objects {
    /// `Streams.Subscribe` to this partition.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn watch(&self, from: From) -> Result<Feed, Status> {
        self.subscribe(SubscribeRequest { from: Some(from), ..self.subscription() }).await
    }

    /// The same, ending at what is now the last record.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn watch_until_current(&self, from: From) -> Result<Vec<Event>, Status> {
        let request = SubscribeRequest { from: Some(from), until_current: true, ..self.subscription() };
        self.subscribe(request).await?.rest().await
    }

    /// A subscription to this partition, with values, to fill in the rest of.
    pub fn subscription(&self) -> SubscribeRequest {
        SubscribeRequest {
            cls_id: self.class.clone(),
            partitions: vec![self.partition],
            with_values: true,
            heartbeat_ms: 100,
            ..SubscribeRequest::default()
        }
    }

    /// Opens a subscription.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn subscribe(&self, request: SubscribeRequest) -> Result<Feed, Status> {
        let responses = self.connection.streams.clone().subscribe(request).await?.into_inner();
        Ok(Feed { responses, waiting: Default::default(), cursor: Vec::new(), progress: 0 })
    }

    /// `Streams.History`, oldest first, with values.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn history(&self, object: &str) -> Result<Vec<Event>, Status> {
        let request = HistoryRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            object_id: object.to_owned(),
            with_values: true,
            ..HistoryRequest::default()
        };
        let mut responses = self.connection.streams.clone().history(request).await?.into_inner();
        let mut events = Vec::new();
        while let Some(event) = responses.message().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// `Streams.GetAt`.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn get_at(&self, object: &str, at: get_at_request::At) -> Result<Fields, Status> {
        let request = GetAtRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            object_id: object.to_owned(),
            at: Some(at),
        };
        let response = self.connection.streams.clone().get_at(request).await?.into_inner();
        Ok(response.obj.map(|object| entries(&object)).unwrap_or_default())
    }

    /// The text of the partition's view.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn dump(&self) -> Result<String, Status> {
        let request = DumpViewRequest { cls_id: self.class.clone(), partition_id: self.partition };
        let mut pieces = self.connection.admin.clone().dump_view(request).await?.into_inner();
        let mut text = String::new();
        while let Some(piece) = pieces.message().await? {
            text.push_str(&piece.text);
        }
        Ok(text)
    }
}

impl Feed {
    /// The next event; waits for it. None when the stream has ended.
    ///
    /// # Errors
    /// The status that the stream ended with.
    pub async fn next(&mut self) -> Result<Option<Event>, Status> {
        while self.waiting.is_empty() {
            if self.batch().await?.is_none() {
                return Ok(None);
            }
        }
        Ok(self.waiting.pop_front())
    }

    /// So many events.
    ///
    /// # Errors
    /// The status that the stream ended with, `OUT_OF_RANGE` if it ended without one.
    pub async fn take(&mut self, count: usize) -> Result<Vec<Event>, Status> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let ended = || Status::out_of_range(format!("the stream ended before {count} events"));
            events.push(self.next().await?.ok_or_else(ended)?);
        }
        Ok(events)
    }

    /// Everything to the end of the stream.
    ///
    /// # Errors
    /// The status that the stream ended with.
    pub async fn rest(mut self) -> Result<Vec<Event>, Status> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// The next response as it came, its events also handed out by [`Feed::next`].
    ///
    /// # Errors
    /// The status that the stream ended with.
    pub async fn batch(&mut self) -> Result<Option<SubscribeResponse>, Status> {
        let response = self.responses.message().await?;
        if let Some(response) = &response {
            self.cursor = response.cursor.to_vec();
            self.progress = response.progress_offset;
            self.waiting.extend(response.events.iter().cloned());
        }
        Ok(response)
    }
}

/// An event in one line: `12 updated alice v3: ~mail=a@b.c -phone`; one about a function: `13 completed alice v3: count 5`.
pub fn line(event: &Event) -> String {
    let kind = match event.kind() {
        EventKind::Created => "created",
        EventKind::Updated => "updated",
        EventKind::Deleted => "deleted",
        EventKind::Completed => "completed",
        EventKind::Failed => "failed",
        EventKind::Unspecified => "?",
    };
    let mut line = format!("{} {kind} {} v{}:", event.offset, event.object_id, event.object_version);
    for change in &event.changes {
        let sign = match change.action() {
            Action::Created => '+',
            Action::Updated => '~',
            Action::Deleted => '-',
            Action::Unspecified => '?',
        };
        line.push_str(&format!(" {sign}{}", change.key));
        if let Some(value) = &change.value {
            line.push_str(&format!("={}", as_text(&value.data)));
        }
    }
    if let Some(outcome) = &event.outcome {
        line.push_str(&format!(" {} {}", outcome.fn_id, as_text(&outcome.payload)));
        if !outcome.detail.is_empty() {
            line.push_str(&format!(" ({})", outcome.detail));
        }
    }
    if event.triggers_changed {
        line.push_str(" (triggers)");
    }
    line
}

/// Events, one in each line.
pub fn lines(events: &[Event]) -> String {
    events.iter().map(line).collect::<Vec<_>>().join("\n")
}
