//! What the services say to each other. All events of one order are on `shop.order`, under its id, in order; what payment, inventory and
//! shipping answer has a topic each. `sequence` counts the events of one key on one topic, so that an inversion can be seen.

use bytes::Bytes;
use postrider::prelude::*;

use crate::input::Order;

/// Places orders: sent by the intake, handled by the order service. Orders that are known are passed over.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(queue = "shop.intake", type = "place")]
pub struct PlaceOrders {
    /// The orders.
    pub orders: Vec<Order>,
}

/// An order was accepted.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "placed", key = order_id)]
pub struct OrderPlaced {
    /// Its identity.
    pub order_id: String,
    /// Who ordered.
    pub customer_id: String,
    /// The total.
    pub cents: u64,
    /// How many of its article.
    pub quantity: u32,
    /// Which event of the order this is, from 1.
    pub sequence: u64,
}

/// The order is paid.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "paid", key = order_id)]
pub struct OrderPaid {
    /// The order.
    pub order_id: String,
    /// Which event of the order this is, from 1.
    pub sequence: u64,
}

/// The order is on its way: it ended well.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "shipped", key = order_id)]
pub struct OrderShipped {
    /// The order.
    pub order_id: String,
    /// Which event of the order this is, from 1.
    pub sequence: u64,
}

/// The order will not be shipped: give back what was taken.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "cancelled", key = order_id)]
pub struct OrderCancelled {
    /// The order.
    pub order_id: String,
    /// Why.
    pub reason: Reason,
    /// Which event of the order this is, from 1.
    pub sequence: u64,
}

/// Why an order was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The card was declined.
    Declined,
    /// There was no stock.
    OutOfStock,
    /// The customer did not want it any more.
    Customer,
}

/// The money of a cancelled order went back: it ended.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(topic = "shop.order", type = "refunded", key = order_id)]
pub struct OrderRefunded {
    /// The order.
    pub order_id: String,
    /// Which event of the order this is, from 1.
    pub sequence: u64,
}

macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident = $topic:tt / $type:tt;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Message, Serialize, Deserialize)]
        #[message(topic = $topic, type = $type, key = order_id)]
        pub struct $name {
            /// The order.
            pub order_id: String,
            /// Which event of this order on this topic this is, from 1.
            pub sequence: u64,
        }
    )*};
}

answers! {
    /// The order's total was taken (or is nothing).
    PaymentCharged = "shop.payment" / "charged";
    /// The card was declined.
    PaymentDeclined = "shop.payment" / "declined";
    /// A cancelled order was not charged, and will not be.
    PaymentVoided = "shop.payment" / "voided";
    /// A cancelled order's money went back.
    PaymentRefunded = "shop.payment" / "refunded";
    /// The stock of the order is set aside.
    StockReserved = "shop.stock" / "reserved";
    /// There is not enough stock.
    StockRejected = "shop.stock" / "rejected";
    /// The stock of a cancelled order is free again.
    StockReleased = "shop.stock" / "released";
    /// The parcel left.
    ParcelLeft = "shop.shipping" / "left";
}

/// Gives money back that was taken although a cancellation had come: payment to itself.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(queue = "shop.refund", type = "refund", key = order_id)]
pub struct RefundOrder {
    /// The order.
    pub order_id: String,
    /// How much.
    pub cents: u64,
}

/// Little is left of an article.
#[derive(Clone, Debug, Message, Serialize, Deserialize)]
#[message(topic = "shop.inventory", type = "low", key = sku)]
pub struct InventoryLow {
    /// The article.
    pub sku: String,
    /// How many are left.
    pub left: u64,
}

/// A message that belongs to no order and that nobody can read: it says that it is an [`OrderPlaced`], and is not even JSON. Published on
/// purpose; it must end as failure records and stop nobody.
#[derive(Clone, Debug)]
pub struct Poison {
    /// A key of its own, which no order has.
    pub key: String,
}

impl Message for Poison {
    const KIND: postrider::DestinationKind = OrderPlaced::KIND;
    const DESTINATION: &'static str = OrderPlaced::DESTINATION;
    const TYPE: &'static str = OrderPlaced::TYPE;
    const VERSION: u32 = OrderPlaced::VERSION;
    const KEYED: bool = true;
    const CONTENT_TYPE: &'static str = OrderPlaced::CONTENT_TYPE;

    fn key(&self) -> Option<Key> {
        Some(Key::of(&self.key))
    }

    fn encode(&self) -> Result<Bytes, postrider::CodecError> {
        Ok(Bytes::from_static(b"\xff\xfe{ this is not an order"))
    }

    fn decode(
        content_type: &postrider::Text,
        payload: &Bytes,
    ) -> Result<Self, postrider::CodecError> {
        OrderPlaced::decode(content_type, payload).map(|order| Self {
            key: order.order_id,
        })
    }
}

impl Event for Poison {}
