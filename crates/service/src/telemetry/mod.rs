//! W3C trace context through every hop, and `tracing` spans with the names of the OpenTelemetry messaging conventions.
//!
//! Every message carries a `traceparent`: one sent from a handler has the trace id of the message that was handled and a new
//! span id, one sent from outside begins a trace. A *process* span does not have the producer's span as its parent; it **links** to it
//! (OTel messaging conventions: a batch has many producers). Without the opentelemetry crates the link is recorded as the
//! fields `link.trace_id` and `link.span_id`, which an OTLP layer turns into a link.
//!
//! Spans have the target `postrider` and level `INFO`: without a subscriber that asks for them they cost a relaxed load.

use std::fmt;

use postrider_core::clock::Entropy;
use postrider_core::envelope::Envelope;
use postrider_core::name::SubscriptionId;
use postrider_core::text::Text;
use tracing::Span;

tokio::task_local! {
    /// The trace that the running handler belongs to.
    static CURRENT: TraceContext;
}

/// A W3C trace context: which trace, which span in it, whether it is sampled (<https://www.w3.org/TR/trace-context/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace. Never zero.
    pub trace_id: u128,
    /// The span within it. Never zero.
    pub span_id: u64,
    /// The flags byte; bit 0: sampled.
    pub flags: u8,
}

impl TraceContext {
    /// A new trace.
    #[must_use]
    pub fn root(entropy: &dyn Entropy) -> Self {
        let high = u128::from(entropy.next_u64());
        let low = u128::from(entropy.next_u64());
        Self {
            trace_id: ((high << 64) | low).max(1),
            span_id: entropy.next_u64().max(1),
            flags: 1,
        }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(self, entropy: &dyn Entropy) -> Self {
        Self {
            span_id: entropy.next_u64().max(1),
            ..self
        }
    }

    /// As a `traceparent`.
    pub(crate) fn to_text(self) -> Text {
        let (trace, span) = (self.trace_id.to_be_bytes(), self.span_id.to_be_bytes());
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        push_hex(&mut text, &trace);
        text.push('-');
        push_hex(&mut text, &span);
        text.push('-');
        push_hex(&mut text, &[self.flags]);
        Text::from(text)
    }

    /// Reads a `traceparent`. Of a version after 00 the first four fields are read, as the specification says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let known = text.len() == 55;
        let later = text.len() > 55 && bytes[55] == b'-' && !text.starts_with("00");
        if !(known || later) || text.starts_with("ff") || !text.is_ascii() {
            return None;
        }
        let mut fields = text.split('-');
        let mut field = |length: usize| {
            let field = fields.next()?;
            let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            (field.len() == length && field.bytes().all(lower)).then_some(field)
        };
        field(2)?;
        let trace_id = u128::from_str_radix(field(32)?, 16).ok()?;
        let span_id = u64::from_str_radix(field(16)?, 16).ok()?;
        let flags = u8::from_str_radix(field(2)?, 16).ok()?;
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// Lower-case hexadecimal digits.
fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            let digit = char::from_digit(u32::from(nibble), 16);
            text.push(digit.expect("four bits are one digit"));
        }
    }
}

/// The trace of the handler that runs in this task.
#[must_use]
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|c| *c).ok()
}

/// Runs a handler within the trace of its message: what it publishes stays in that trace.
pub(crate) async fn within<F: Future>(context: TraceContext, future: F) -> F::Output {
    CURRENT.scope(context, future).await
}

/// Gives an outgoing envelope its `traceparent`, unless it has one that can be read.
pub(crate) fn inject(envelope: &mut Envelope, entropy: &dyn Entropy) {
    if envelope
        .traceparent
        .as_deref()
        .and_then(TraceContext::parse)
        .is_some()
    {
        return;
    }
    let context = match current() {
        Some(context) => context.child(entropy),
        None => TraceContext::root(entropy),
    };
    envelope.traceparent = Some(context.to_text());
}

/// The context in which a message is handled: its own trace with a new span, or a new trace.
pub(crate) fn context_of(envelope: &Envelope, entropy: &dyn Entropy) -> TraceContext {
    match envelope
        .traceparent
        .as_deref()
        .and_then(TraceContext::parse)
    {
        Some(producer) => producer.child(entropy),
        None => TraceContext::root(entropy),
    }
}

/// The span around one run of a handler. It links to the producer's.
pub(crate) fn process_span(
    system: &str,
    subscription: &SubscriptionId,
    envelope: &Envelope,
    attempt: u32,
    context: TraceContext,
) -> Span {
    let span = tracing::info_span!(
        target: "postrider",
        parent: None,
        "process",
        otel.name = tracing::field::Empty,
        otel.kind = "consumer",
        messaging.system = system,
        messaging.operation.type = "process",
        messaging.operation.name = "process",
        messaging.destination.name = subscription.on.name.as_str(),
        messaging.consumer.group.name = subscription.service.as_str(),
        messaging.message.id = tracing::field::Empty,
        messaging.message.conversation_id = envelope.correlation_id.as_deref(),
        postrider.message.type = &*envelope.message_type,
        postrider.attempt = attempt,
        trace_id = tracing::field::Empty,
        span_id = tracing::field::Empty,
        link.trace_id = tracing::field::Empty,
        link.span_id = tracing::field::Empty,
        error.type = tracing::field::Empty,
    );
    if !span.is_disabled() {
        span.record("otel.name", format!("process {}", subscription.on.name));
        span.record("messaging.message.id", tracing::field::display(envelope.id));
        span.record("trace_id", format!("{:032x}", context.trace_id));
        span.record("span_id", format!("{:016x}", context.span_id));
        if let Some(producer) = envelope
            .traceparent
            .as_deref()
            .and_then(TraceContext::parse)
        {
            span.record("link.trace_id", format!("{:032x}", producer.trace_id));
            span.record("link.span_id", format!("{:016x}", producer.span_id));
        }
    }
    span
}

/// The span around a publish. `envelope`: the first of the batch, injected already.
pub(crate) fn publish_span(
    system: &str,
    destination: &str,
    envelope: &Envelope,
    count: usize,
) -> Span {
    let span = tracing::info_span!(
        target: "postrider",
        "send",
        otel.kind = "producer",
        messaging.system = system,
        messaging.operation.type = "send",
        messaging.operation.name = "publish",
        messaging.destination.name = destination,
        messaging.batch.message_count = count,
        messaging.message.id = tracing::field::Empty,
        trace_id = tracing::field::Empty,
        span_id = tracing::field::Empty,
    );
    if !span.is_disabled() {
        span.record("messaging.message.id", tracing::field::display(envelope.id));
        if let Some(own) = envelope
            .traceparent
            .as_deref()
            .and_then(TraceContext::parse)
        {
            span.record("trace_id", format!("{:032x}", own.trace_id));
            span.record("span_id", format!("{:016x}", own.span_id));
        }
    }
    span
}

#[cfg(test)]
mod tests;
