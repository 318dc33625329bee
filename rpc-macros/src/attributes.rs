//! Users' attributes: which of them generated items share, and what their docs say.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{AttrStyle, Attribute, Expr, ExprLit, Lit, Meta, Path, Token, parse_quote};

/// The attributes that an item generated for something shares with it.
pub(crate) fn forwarded(attributes: &[Attribute]) -> Vec<Attribute> {
    filter(attributes, &|meta| {
        let is_one_of = |names: &[&str]| names.iter().any(|name| meta.path().is_ident(name));
        if is_one_of(&["cfg", "doc", "deprecated", "allow"]) {
            return Some(meta.clone());
        }
        // The lint that is expected on the trait need not fire on what is generated from it.
        let expected = meta.path().is_ident("expect").then(|| meta.require_list().ok())??;
        let lints = &expected.tokens;
        Some(parse_quote!(allow(#lints)))
    })
}

/// The attributes that decide whether something exists.
pub(crate) fn cfgs(attributes: &[Attribute]) -> Vec<Attribute> {
    filter(attributes, &|meta| meta.path().is_ident("cfg").then(|| meta.clone()))
}

/// Whether an attribute of that name is there, possibly under a `cfg_attr`.
pub(crate) fn mentions(attributes: &[Attribute], name: &str) -> bool {
    let named = filter(attributes, &|meta| meta.path().is_ident(name).then(|| meta.clone()));
    !named.is_empty()
}

/// The attributes of which `keep` makes something, those inside of a `cfg_attr` included.
fn filter(attributes: &[Attribute], keep: &dyn Fn(&Meta) -> Option<Meta>) -> Vec<Attribute> {
    let kept = attributes.iter().filter_map(|attribute| {
        let meta = filter_meta(&attribute.meta, keep)?;
        Some(Attribute {
            meta,
            style: AttrStyle::Outer,
            ..attribute.clone()
        })
    });
    kept.collect()
}

fn filter_meta(meta: &Meta, keep: &dyn Fn(&Meta) -> Option<Meta>) -> Option<Meta> {
    if !meta.path().is_ident("cfg_attr") {
        return keep(meta);
    }
    // One that does not parse is left for the compiler to report, on the trait.
    let (condition, metas) = parse_cfg_attr.parse2(meta.require_list().ok()?.tokens.clone()).ok()?;
    let kept: Vec<_> = metas.iter().filter_map(|meta| filter_meta(meta, keep)).collect();
    (!kept.is_empty()).then(|| parse_quote!(cfg_attr(#condition, #(#kept),*)))
}

fn parse_cfg_attr(input: ParseStream<'_>) -> syn::Result<(TokenStream, Punctuated<Meta, Token![,]>)> {
    let mut condition = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        condition.extend([input.parse::<TokenTree>()?]);
    }
    input.parse::<Token![,]>()?;
    Ok((condition, Punctuated::parse_terminated(input)?))
}

/// The text of the doc comments, as an expression of type `&'static str`.
pub(crate) fn docs(attributes: &[Attribute]) -> TokenStream {
    let mut text = String::new();
    let mut parts = Vec::new();
    for (index, line) in doc_lines(attributes).enumerate() {
        if index > 0 {
            text.push('\n');
        }
        match literal(line) {
            Some(line) => text.push_str(line.strip_prefix(' ').unwrap_or(&line)),
            // A macro such as `include_str!`, which only the compiler can expand.
            None => {
                parts.push(std::mem::take(&mut text).into_token_stream());
                parts.push(line.to_token_stream());
            }
        }
    }
    if parts.is_empty() {
        return text.into_token_stream();
    }
    quote!(::core::concat!(#(#parts,)* #text))
}

/// Whether there is a doc comment.
pub(crate) fn has_docs(attributes: &[Attribute]) -> bool {
    doc_lines(attributes).next().is_some()
}

fn doc_lines(attributes: &[Attribute]) -> impl Iterator<Item = &Expr> {
    attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => Some(&meta.value),
        _ => None,
    })
}

fn literal(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Lit(ExprLit {
            lit: Lit::Str(text), ..
        }) => Some(text.value()),
        Expr::Group(group) => literal(&group.expr),
        _ => None,
    }
}

/// Takes the attributes of that name out of `attributes`.
pub(crate) fn take(attributes: &mut Vec<Attribute>, name: &str) -> Vec<Attribute> {
    attributes
        .extract_if(.., |attribute| attribute.path().is_ident(name))
        .collect()
}

/// The path of an attribute under a `cfg_attr`, if it has one of those names.
pub(crate) fn find_conditional(attributes: &[Attribute], name: &str) -> Option<Path> {
    let conditional = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg_attr"));
    let mut found = conditional.filter(|attribute| mentions(std::slice::from_ref(attribute), name));
    found.next().map(|attribute| attribute.path().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(attributes: &[Attribute]) -> String {
        quote!(#(#attributes)*).to_string()
    }

    #[test]
    fn conditional_attributes_are_filtered_inside() {
        let attributes = [
            parse_quote!(#[cfg_attr(feature = "x", deprecated, inline, cfg_attr(unix, doc = "y"))]),
            parse_quote!(#[cfg_attr(unix, inline)]),
            parse_quote!(#[expect(dead_code)]),
            parse_quote!(#[must_use]),
        ];
        let expected = quote! {
            #[cfg_attr(feature = "x", deprecated, cfg_attr(unix, doc = "y"))]
            #[allow(dead_code)]
        };
        assert_eq!(text(&forwarded(&attributes)), expected.to_string());
        assert!(mentions(&attributes, "deprecated") && !mentions(&attributes, "cfg"));
        assert!(find_conditional(&attributes, "inline").is_some());
    }

    #[test]
    fn docs_are_lines_without_their_first_space() {
        let attributes = [parse_quote!(#[doc = " One."]), parse_quote!(#[doc = "  Two."])];
        assert_eq!(docs(&attributes).to_string(), quote!("One.\n Two.").to_string());
        let included = [
            parse_quote!(#[doc = " One."]),
            parse_quote!(#[doc = include_str!("two.md")]),
        ];
        let expected = quote!(::core::concat!("One.\n", include_str!("two.md"), ""));
        assert_eq!(docs(&included).to_string(), expected.to_string());
        assert!(!has_docs(&[parse_quote!(#[doc(hidden)])]));
    }
}
