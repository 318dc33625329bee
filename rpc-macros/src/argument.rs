//! The arguments of a method.

use proc_macro2::Ident;
use syn::{Attribute, Meta, Pat, PatIdent, PatType, Path, Type};

use crate::attributes;
use crate::errors::Errors;
use crate::types;

/// An argument of the trait's method, `&self` apart.
pub(crate) enum Argument {
    /// `#[ctx] cx: &Context`.
    Context,
    /// One that crosses the wire.
    Wire(Box<WireArgument>),
}

/// An argument that crosses the wire.
pub(crate) struct WireArgument {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    /// Whether callers may leave it out, if they leave out all that follow.
    pub(crate) optional: bool,
    /// What says so, beside its type.
    default: Option<Attribute>,
}

/// Reads an argument, and takes the attributes that are ours away from it; `None` if it is unusable.
pub(crate) fn parse(argument: &mut PatType, has_body: bool, errors: &mut Errors) -> Option<Argument> {
    let markers = take_markers(&mut argument.attrs, errors);
    let name = parse_name(&argument.pat, has_body, errors);
    let ty = &*argument.ty;
    if markers.context {
        check_context(ty, errors);
        return Some(Argument::Context);
    }
    types::check_owned(ty, "an argument", errors);
    let is_option = types::last_segment(ty).is_some_and(|segment| segment.ident == "Option");
    Some(Argument::Wire(Box::new(WireArgument {
        name: name?,
        ty: ty.clone(),
        optional: markers.default.is_some() || is_option,
        default: markers.default,
    })))
}

/// Arguments travel by position, so that only the last ones can be missing.
pub(crate) fn check_order(arguments: &[Argument], errors: &mut Errors) {
    let mut required = None;
    for argument in arguments.iter().rev() {
        let Argument::Wire(argument) = argument else { continue };
        match (required, &argument.default) {
            (Some(required), Some(default)) => {
                let message = format!(
                    "arguments travel by position, so this one cannot be missing where `{required}` is given: put it \
                     behind all that have to be there, or drop the attribute and make it an `Option`"
                );
                errors.at(default, message);
            }
            _ if !argument.optional => required = Some(&argument.name),
            _ => {}
        }
    }
}

struct Markers {
    context: bool,
    default: Option<Attribute>,
}

fn take_markers(attributes: &mut Vec<Attribute>, errors: &mut Errors) -> Markers {
    let context = attributes::take(attributes, "ctx");
    let serde = attributes::take(attributes, "serde");
    for attribute in &context {
        if !matches!(attribute.meta, Meta::Path(_)) {
            errors.at(attribute, "`ctx` takes no options: write `#[ctx]`");
        }
    }
    for attribute in &serde {
        if !attribute
            .parse_args::<Path>()
            .is_ok_and(|path| path.is_ident("default"))
        {
            let message = "only `default` is understood on an argument: write `#[serde(default)]`, or put the \
                           attribute on a type of your own";
            errors.at(attribute, message);
        } else if !context.is_empty() {
            errors.at(attribute, "the context is not on the wire: remove `#[serde(default)]`");
        }
    }
    for attribute in attributes.iter() {
        if attribute.path().is_ident("cfg") || attribute.path().is_ident("cfg_attr") {
            let message = "arguments cannot depend on a `cfg`, because both sides count them: put `#[cfg]` on one \
                           method for each case";
            errors.at(attribute, message);
        }
    }
    Markers {
        context: !context.is_empty(),
        default: serde.into_iter().next(),
    }
}

fn parse_name(pattern: &Pat, has_body: bool, errors: &mut Errors) -> Option<Ident> {
    match pattern {
        Pat::Ident(PatIdent {
            by_ref: None,
            subpat: None,
            mutability,
            ident,
            ..
        }) => {
            if let (Some(mutability), false) = (mutability, has_body) {
                errors.at(
                    mutability,
                    "a method without a body cannot have `mut` arguments: remove `mut`",
                );
            }
            Some(ident.clone())
        }
        pattern => {
            let message = "an argument needs a name, which is part of the method table: write `name: Type`";
            errors.at(pattern, message);
            None
        }
    }
}

fn check_context(ty: &Type, errors: &mut Errors) {
    let is_context = match types::peel(ty) {
        Type::Reference(reference) => {
            let elided = reference.lifetime.as_ref().is_none_or(|lifetime| lifetime.ident == "_");
            let to_context = types::last_segment(&reference.elem).is_some_and(|segment| segment.ident == "Context");
            elided && reference.mutability.is_none() && to_context
        }
        _ => false,
    };
    if !is_context {
        errors.at(ty, "the context is lent to the handler: write `#[ctx] cx: &Context`");
    }
}
