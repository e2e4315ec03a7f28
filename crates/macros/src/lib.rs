//! `derive(Message)` and `derive(Fault)`.
//!
//! **Is**: two derives whose every mistake is a compile error that says what to write instead.
//! **Is not**: needed. Both traits can be implemented by hand.
//!
//! Users take both from the `postrider` crate.

mod attribute;
mod fault;
mod message;

use proc_macro::TokenStream;

/// Implements `Message`, and `Event` or `Command`, for a struct or an enum.
///
/// | in `#[message(…)]` | means |
/// |---|---|
/// | `topic = "shop.order"` | an event of this topic |
/// | `queue = "payments"` | a command for this queue |
/// | `reply` | an answer; it goes where the request says |
/// | `type = "placed"` | its type within the topic or queue; required |
/// | `key = order_id` | the field (`order_id`, `0`, `order.id`) by which messages are ordered; it must print |
/// | `version = 2` | the schema version, from 1; a reader keeps what is newer than it as a failure record |
/// | `codec = Path` | how the payload is written; JSON where it is absent |
/// | `crate = path` | where `postrider_core` is, for a crate that does not depend on `postrider` |
#[proc_macro_derive(Message, attributes(message))]
pub fn derive_message(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    message::derive(&input)
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}

/// Implements `ToOutcome` for an error type: each variant says what it means for the delivery.
///
/// | on a variant (or the struct) | means |
/// |---|---|
/// | `#[fault(transient)]` | retried by the policy |
/// | `#[fault(retry_after = 30)]` | retried, not before this many seconds |
/// | `#[fault(retry_after = wait)]` | the same, from the variant's field `wait: Duration` |
/// | `#[fault(permanent)]` | a failure record at once |
/// | `#[fault(unavailable = "psp")]` | the dependency is down: consumption pauses, no attempt is burned |
/// | `#[fault(stop)]` | stop the service |
/// | `#[fault(transparent)]` | what its one field says |
#[proc_macro_derive(Fault, attributes(fault))]
pub fn derive_fault(input: TokenStream) -> TokenStream {
    let input = syn::parse_macro_input!(input as syn::DeriveInput);
    fault::derive(&input)
        .unwrap_or_else(|e| e.to_compile_error())
        .into()
}
