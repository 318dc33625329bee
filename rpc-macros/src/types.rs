//! What can be told from a type's syntax.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::visit::{self, Visit};
use syn::{GenericArgument, Path, PathArguments, PathSegment, Type, TypeImplTrait, TypeReference};

use crate::errors::Errors;

/// The type inside parentheses and the invisible groups that `macro_rules!` puts around a `$ty`.
pub(crate) fn peel(ty: &Type) -> &Type {
    match ty {
        Type::Paren(ty) => peel(&ty.elem),
        Type::Group(ty) => peel(&ty.elem),
        ty => ty,
    }
}

/// The last segment of a type's path: the `Option<T>` of `std::option::Option<T>`.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match peel(ty) {
        Type::Path(ty) if ty.qself.is_none() => ty.path.segments.last(),
        _ => None,
    }
}

/// The type arguments of a path segment: `T` and `E` of `Result<T, E>`.
pub(crate) fn type_arguments(segment: &PathSegment) -> Vec<&Type> {
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else {
        return Vec::new();
    };
    let types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.collect()
}

pub(crate) fn is_unit(ty: &Type) -> bool {
    matches!(peel(ty), Type::Tuple(tuple) if tuple.elems.is_empty())
}

/// Complains about whatever in `ty` cannot cross the wire; `what` it is stands first in the message.
pub(crate) fn check_owned(ty: &Type, what: &str, errors: &mut Errors) {
    WireCheck { what, errors }.visit_type(ty);
}

struct WireCheck<'a> {
    what: &'a str,
    errors: &'a mut Errors,
}

impl<'ast> Visit<'ast> for WireCheck<'_> {
    fn visit_type_reference(&mut self, reference: &'ast TypeReference) {
        let what = self.what;
        let message = match peel(&reference.elem) {
            ty if last_segment(ty).is_some_and(|segment| segment.ident == "Context") => {
                format!("{what} cannot be borrowed: mark it `#[ctx]` if it is the context of the call")
            }
            ty => format!(
                "{what} cannot be borrowed, because it crosses the wire: write `{}`",
                owned(ty)
            ),
        };
        self.errors.at(reference, message);
    }

    fn visit_type_impl_trait(&mut self, ty: &'ast TypeImplTrait) {
        let message = format!(
            "{} cannot be `impl Trait`, because the other side must know its type: name a type",
            self.what
        );
        self.errors.at(ty, message);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        match path.segments.first() {
            Some(first) if first.ident == "Self" => {
                let message = format!(
                    "{} cannot mention `Self`, which is another type in the client: name a type",
                    self.what
                );
                self.errors.at(first, message);
            }
            _ => visit::visit_path(self, path),
        }
    }
}

/// What to write instead of a reference to `ty`.
fn owned(ty: &Type) -> String {
    match ty {
        Type::Slice(slice) => format!("Vec<{}>", display(&slice.elem)),
        ty if last_segment(ty).is_some_and(|segment| segment.ident == "str") => "String".to_owned(),
        ty => display(ty),
    }
}

/// The source of a type, spaced as `rustfmt` does.
pub(crate) fn display(ty: &Type) -> String {
    let mut text = String::new();
    write(ty.to_token_stream(), &mut text);
    text
}

fn write(tokens: TokenStream, text: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                push(open, text);
                write(group.stream(), text);
                text.push_str(close);
            }
            token => push(&token.to_string(), text),
        }
    }
}

fn push(token: &str, text: &mut String) {
    let Some(first) = token.chars().next() else { return };
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '"');
    let after_operator = text.ends_with([',', ';', '=', '+']) || text.ends_with("->");
    let between_words = text.ends_with(is_word) && is_word(first);
    let before_operator = matches!(first, '=' | '+' | '-');
    if (after_operator && first != '>') || between_words || before_operator {
        text.push(' ');
    }
    text.push_str(token);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_look_as_written() {
        for text in [
            "()",
            "Vec<u8>",
            "std::collections::HashMap<String, Vec<(u8, i64)>>",
            "(A,)",
            "[u8; 16]",
            "Cow<'static, str>",
            "&'a str",
            "Box<dyn Fn(u8) -> u16 + Send>",
            "<A as B>::C",
            "Foo<Item = u8>",
        ] {
            let ty = syn::parse_str(text).unwrap();
            assert_eq!(display(&ty), text);
        }
    }

    #[test]
    fn borrowed_types_have_owned_ones() {
        for (ty, instead) in [("str", "String"), ("[Vec<u8>]", "Vec<Vec<u8>>"), ("Foo<u8>", "Foo<u8>")] {
            assert_eq!(owned(&syn::parse_str(ty).unwrap()), instead);
        }
    }

    #[test]
    fn parentheses_hide_nothing() {
        let ty = syn::parse_str("((a::Option<u8>))").unwrap();
        assert_eq!(last_segment(&ty).unwrap().ident, "Option");
        assert!(is_unit(&syn::parse_str("(())").unwrap()));
    }
}
