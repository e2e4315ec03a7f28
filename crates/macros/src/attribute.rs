//! Reading `name = value` lists.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Ident, Lit, LitStr, Path, Token};

/// One `name` or `name = value`. The name may be a keyword (`type`, `crate`).
pub(crate) struct Item {
    name: Ident,
    value: Option<Expr>,
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let name = input.call(Ident::parse_any)?;
        let value = match input.parse::<Option<Token![=]>>()? {
            Some(_) => Some(input.parse()?),
            None => None,
        };
        Ok(Self { name, value })
    }
}

impl ToTokens for Item {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.name.to_tokens(tokens);
        self.value.to_tokens(tokens);
    }
}

impl Item {
    /// The name before `=`, as written.
    pub(crate) fn name(&self) -> String {
        self.name.to_string()
    }

    /// The value after `=`.
    pub(crate) fn value(&self) -> syn::Result<&Expr> {
        self.value
            .as_ref()
            .ok_or_else(|| syn::Error::new_spanned(self, format!("write `{} = …`", self.name)))
    }
}

/// The comma-separated content of every `#[name(…)]` among the attributes.
pub(crate) fn items(attributes: &[Attribute], name: &str) -> syn::Result<Vec<Item>> {
    let mut all = Vec::new();
    for attribute in attributes.iter().filter(|a| a.path().is_ident(name)) {
        all.extend(attribute.parse_args_with(Punctuated::<Item, Token![,]>::parse_terminated)?);
    }
    Ok(all)
}

/// A string literal.
pub(crate) fn text(expr: &Expr) -> syn::Result<LitStr> {
    match expr {
        Expr::Lit(lit) => match &lit.lit {
            Lit::Str(text) => Ok(text.clone()),
            other => Err(syn::Error::new_spanned(other, "a string is wanted here")),
        },
        other => Err(syn::Error::new_spanned(other, "a string is wanted here")),
    }
}

/// A path, written bare or as a string.
pub(crate) fn path(expr: &Expr) -> syn::Result<Path> {
    match expr {
        Expr::Path(path) => Ok(path.path.clone()),
        other => text(other)?.parse(),
    }
}

/// Where `postrider_core` is for code that depends on `postrider`.
pub(crate) fn default_core() -> TokenStream {
    quote!(::postrider::__private::core)
}
