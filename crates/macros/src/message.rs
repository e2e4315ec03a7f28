//! `derive(Message)`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{DeriveInput, Expr, Lit, LitStr, Path};

use crate::attribute::{Item, default_core, items, path, text};

/// The longest name, as `postrider_core::name::NAME_BYTES_MAX`.
const NAME_BYTES_MAX: usize = 200;

enum Kind {
    Event(LitStr),
    Command(LitStr),
    Reply,
}

struct Spec {
    kind: Kind,
    message_type: LitStr,
    key: Option<TokenStream>,
    version: u32,
    codec: Option<Path>,
    core: TokenStream,
}

pub(crate) fn derive(input: &DeriveInput) -> syn::Result<TokenStream> {
    if let Some(parameter) = input.generics.params.first() {
        return Err(syn::Error::new_spanned(
            parameter,
            "a message has no type parameters: what travels must have one name and one shape",
        ));
    }
    if let syn::Data::Union(data) = &input.data {
        return Err(syn::Error::new_spanned(
            data.union_token,
            "a union cannot be a message",
        ));
    }
    Ok(emit(&input.ident, &read(input)?))
}

fn read(input: &DeriveInput) -> syn::Result<Spec> {
    let list = items(&input.attrs, "message")?;
    let (mut kind, mut message_type, mut key) = (None, None, None);
    let (mut version, mut codec, mut core) = (1, None, default_core());
    for item in &list {
        match item.name().as_str() {
            "topic" => set_kind(&mut kind, Kind::Event(name(item)?), item)?,
            "queue" => set_kind(&mut kind, Kind::Command(name(item)?), item)?,
            "reply" => set_kind(&mut kind, Kind::Reply, item)?,
            "type" => message_type = Some(name(item)?),
            "key" => key = Some(key_of(item.value()?)?),
            "version" => version = version_of(item.value()?)?,
            "codec" => codec = Some(path(item.value()?)?),
            "crate" => core = path(item.value()?)?.to_token_stream(),
            other => {
                return Err(syn::Error::new_spanned(
                    item,
                    format!(
                        "`{other}` is not known here; known are topic, queue, reply, type, key, version, codec, crate"
                    ),
                ));
            }
        }
    }
    let ident = &input.ident;
    let kind = kind.ok_or_else(|| {
        syn::Error::new_spanned(
            ident,
            "say where this message goes: `#[message(topic = \"…\", type = \"…\")]` for an event, \
             `#[message(queue = \"…\", type = \"…\")]` for a command, `#[message(reply, type = \"…\")]` for an answer",
        )
    })?;
    let message_type = message_type.ok_or_else(|| {
        let suggestion = snake(&ident.to_string());
        syn::Error::new_spanned(
            ident,
            format!("name the type as it travels, for example `type = \"{suggestion}\"`: it must not change when the Rust name does"),
        )
    })?;
    Ok(Spec {
        kind,
        message_type,
        key,
        version,
        codec,
        core,
    })
}

fn set_kind(kind: &mut Option<Kind>, new: Kind, at: &Item) -> syn::Result<()> {
    if kind.is_some() {
        return Err(syn::Error::new_spanned(
            at,
            "a message goes to one place: a topic, a queue, or back as a reply",
        ));
    }
    *kind = Some(new);
    Ok(())
}

fn name(item: &Item) -> syn::Result<LitStr> {
    let literal = text(item.value()?)?;
    let value = literal.value();
    let good = !value.is_empty()
        && value.len() <= NAME_BYTES_MAX
        && value.starts_with(|c: char| c.is_ascii_alphanumeric())
        && value
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if good {
        return Ok(literal);
    }
    Err(syn::Error::new(
        literal.span(),
        format!(
            "a name has 1 to {NAME_BYTES_MAX} characters of a-z A-Z 0-9 . _ - and begins with a letter or digit"
        ),
    ))
}

/// `order_id`, `0` or `order.id` as a place within `self`.
fn key_of(expr: &Expr) -> syn::Result<TokenStream> {
    match expr {
        Expr::Path(path) if path.path.get_ident().is_some() => Ok(quote!(self.#path)),
        Expr::Field(field) => {
            let (base, member) = (key_of(&field.base)?, &field.member);
            Ok(quote!(#base.#member))
        }
        Expr::Lit(lit) if matches!(lit.lit, Lit::Int(_)) => {
            let index = &lit.lit;
            Ok(quote!(self.#index))
        }
        other => Err(syn::Error::new_spanned(
            other,
            "a key is a field of the message: `key = order_id`, `key = 0` or `key = order.id`",
        )),
    }
}

fn version_of(expr: &Expr) -> syn::Result<u32> {
    let version = match expr {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Int(number) => number.base10_parse::<u32>().ok(),
            _ => None,
        },
        _ => None,
    };
    version
        .filter(|v| *v > 0)
        .ok_or_else(|| syn::Error::new_spanned(expr, "a version is a whole number from 1"))
}

fn emit(ident: &syn::Ident, spec: &Spec) -> TokenStream {
    let Spec {
        kind,
        message_type,
        key,
        version,
        codec,
        core,
    } = spec;
    let (kind_value, destination, marker) = match kind {
        Kind::Event(name) => (
            quote!(Topic),
            quote!(#name),
            quote!(impl #core::message::Event for #ident {}),
        ),
        Kind::Command(name) => (
            quote!(Queue),
            quote!(#name),
            quote!(impl #core::message::Command for #ident {}),
        ),
        Kind::Reply => (quote!(Inbox), quote!(""), TokenStream::new()),
    };
    let keyed = key.is_some();
    let key = key.as_ref().map_or_else(
        || quote!(::core::option::Option::None),
        |place| quote!(::core::option::Option::Some(#core::message::Key::of(&#place))),
    );
    let codec = codec
        .as_ref()
        .map_or_else(|| quote!(#core::codec::Json), ToTokens::to_token_stream);
    quote! {
        impl #core::message::Message for #ident {
            const KIND: #core::name::DestinationKind = #core::name::DestinationKind::#kind_value;
            const DESTINATION: &'static str = #destination;
            const TYPE: &'static str = #message_type;
            const VERSION: u32 = #version;
            const KEYED: bool = #keyed;
            const CONTENT_TYPE: &'static str = <#codec as #core::codec::Codec>::CONTENT_TYPE;

            fn key(&self) -> ::core::option::Option<#core::message::Key> {
                #key
            }

            fn encode(&self) -> ::core::result::Result<#core::Bytes, #core::codec::CodecError> {
                <#codec as #core::codec::Encode<Self>>::encode(self)
            }

            fn decode(
                content_type: &#core::text::Text,
                payload: &#core::Bytes,
            ) -> ::core::result::Result<Self, #core::codec::CodecError> {
                #core::codec::decode_checked::<#codec, Self>(#message_type, content_type, payload)
            }
        }

        #marker
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
