//! `derive(Fault)`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Data, DeriveInput, Expr, Fields, Ident, Lit};

use crate::attribute::{Item, default_core, items, path, text};

const KNOWN: &str = "say what it means for the delivery: #[fault(transient)], #[fault(retry_after = 30)], \
                     #[fault(permanent)], #[fault(unavailable = \"…\")], #[fault(stop)] or #[fault(transparent)]";

enum Meaning {
    Transient,
    RetryAfterSeconds(u64),
    RetryAfterField(Ident),
    Permanent,
    Unavailable(String),
    Stop,
    Transparent,
}

pub(crate) fn derive(input: &DeriveInput) -> syn::Result<TokenStream> {
    let core = core_of(&input.attrs)?;
    let ident = &input.ident;
    let arms = match &input.data {
        Data::Struct(data) => {
            let meaning =
                meaning_of(&input.attrs)?.ok_or_else(|| syn::Error::new_spanned(ident, KNOWN))?;
            vec![arm(&quote!(#ident), &data.fields, &meaning, &core)?]
        }
        Data::Enum(data) => {
            let default = meaning_of(&input.attrs)?;
            let mut arms = Vec::new();
            for variant in &data.variants {
                let own = meaning_of(&variant.attrs)?;
                let meaning = own
                    .as_ref()
                    .or(default.as_ref())
                    .ok_or_else(|| syn::Error::new_spanned(&variant.ident, KNOWN))?;
                let name = &variant.ident;
                arms.push(arm(
                    &quote!(#ident::#name),
                    &variant.fields,
                    meaning,
                    &core,
                )?);
            }
            arms
        }
        Data::Union(data) => {
            return Err(syn::Error::new_spanned(
                data.union_token,
                "a union cannot be an error",
            ));
        }
    };
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        impl #impl_generics #core::fault::ToOutcome for #ident #type_generics #where_clause {
            fn to_outcome(self) -> #core::fault::HandlerError {
                match self { #(#arms)* }
            }
        }
    })
}

fn core_of(attributes: &[Attribute]) -> syn::Result<TokenStream> {
    for item in items(attributes, "fault")? {
        if item.name() == "crate" {
            return Ok(path(item.value()?)?.to_token_stream());
        }
    }
    Ok(default_core())
}

fn meaning_of(attributes: &[Attribute]) -> syn::Result<Option<Meaning>> {
    let mut found = None;
    for item in items(attributes, "fault")? {
        let meaning = match item.name().as_str() {
            "crate" => continue,
            "transient" => Meaning::Transient,
            "permanent" => Meaning::Permanent,
            "stop" => Meaning::Stop,
            "transparent" => Meaning::Transparent,
            "retry_after" => retry_after(&item)?,
            "unavailable" => Meaning::Unavailable(text(item.value()?)?.value()),
            _ => return Err(syn::Error::new_spanned(&item, KNOWN)),
        };
        if found.replace(meaning).is_some() {
            return Err(syn::Error::new_spanned(
                &item,
                "an error means one thing: keep one of these",
            ));
        }
    }
    Ok(found)
}

fn retry_after(item: &Item) -> syn::Result<Meaning> {
    let wrong = || {
        syn::Error::new_spanned(
            item,
            "write `retry_after = 30` (seconds) or `retry_after = wait` with a field `wait: Duration`",
        )
    };
    match item.value()? {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Int(seconds) => Ok(Meaning::RetryAfterSeconds(seconds.base10_parse()?)),
            _ => Err(wrong()),
        },
        Expr::Path(path) => path
            .path
            .get_ident()
            .cloned()
            .map(Meaning::RetryAfterField)
            .ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn arm(
    pattern: &TokenStream,
    fields: &Fields,
    meaning: &Meaning,
    core: &TokenStream,
) -> syn::Result<TokenStream> {
    let error = quote!(#core::fault::HandlerError);
    let boxed = quote!(::std::boxed::Box::new(this));
    Ok(match meaning {
        Meaning::Transient => quote!(this @ #pattern { .. } => #error::Transient(#boxed),),
        Meaning::Permanent => quote!(this @ #pattern { .. } => #error::Permanent(#boxed),),
        Meaning::Stop => quote!(this @ #pattern { .. } => #error::Stop(#boxed),),
        Meaning::RetryAfterSeconds(seconds) => quote! {
            this @ #pattern { .. } =>
                #error::RetryAfter(::core::time::Duration::from_secs(#seconds), #boxed),
        },
        Meaning::RetryAfterField(field) => quote! {
            this @ #pattern { .. } => {
                let after = match &this {
                    #pattern { #field, .. } => *#field,
                    #[allow(unreachable_patterns)]
                    _ => ::core::time::Duration::ZERO,
                };
                #error::RetryAfter(after, #boxed)
            }
        },
        Meaning::Unavailable(name) => quote! {
            this @ #pattern { .. } =>
                #error::Unavailable(#core::fault::Dependency::new(#name), #boxed),
        },
        Meaning::Transparent => {
            let mut all = fields.members();
            let (Some(member), None) = (all.next(), all.next()) else {
                return Err(syn::Error::new_spanned(
                    pattern,
                    "`transparent` wants exactly one field: the error that decides",
                ));
            };
            quote!(#pattern { #member: inner } => #core::fault::ToOutcome::to_outcome(inner),)
        }
    })
}
