//! One method: what the trait says about it, in the form that is rendered.

use std::time::Duration;

use proc_macro2::{Ident, Span};
use syn::ext::IdentExt;
use syn::{
    Attribute, FnArg, PathArguments, Receiver, ReceiverKind, ReturnType, Safety, Signature, TraitItemFn, Type,
    parse_quote,
};

use crate::argument::{self, Argument, WireArgument};
use crate::errors::Errors;
use crate::options::{self, MethodOptions};
use crate::{attributes, names, types};

/// The client's own methods, which a method of the trait would hide.
const RESERVED: [&str; 6] = [
    "new",
    "clone",
    "with_timeout",
    "without_timeout",
    "with_header",
    "with_idempotency_key",
];

/// A method of the trait.
pub(crate) struct Method {
    /// As written, without the attributes that are ours.
    pub(crate) item: TraitItemFn,
    /// `service.method`.
    pub(crate) wire_name: String,
    /// `service.alias`.
    pub(crate) aliases: Vec<String>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) notify: bool,
    pub(crate) at_most_once: bool,
    pub(crate) no_cancel: bool,
    pub(crate) dedupe: Option<Duration>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) returns: Returns,
}

/// What a method returns.
pub(crate) enum Returns {
    Plain(Box<Type>),
    /// `Result<ok, error>`, which is written as `written`.
    Fallible {
        ok: Box<Type>,
        error: Box<Type>,
        written: Box<Type>,
    },
}

impl Returns {
    /// The type as the trait has it.
    pub(crate) fn ty(&self) -> &Type {
        match self {
            Self::Plain(ty) | Self::Fallible { written: ty, .. } => ty,
        }
    }
}

impl Method {
    pub(crate) fn ident(&self) -> &Ident {
        &self.item.sig.ident
    }

    /// Of code that does not compile when the arguments' types cannot cross the wire: the error belongs here.
    pub(crate) fn span(&self) -> Span {
        self.ident().span().resolved_at(Span::mixed_site())
    }

    pub(crate) fn attributes(&self) -> &[Attribute] {
        &self.item.attrs
    }

    /// The arguments that cross the wire.
    pub(crate) fn wire_arguments(&self) -> impl DoubleEndedIterator<Item = &WireArgument> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Wire(argument) => Some(&**argument),
            Argument::Context => None,
        })
    }

    /// The wire names that it answers to.
    pub(crate) fn wire_names(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.wire_name).chain(&self.aliases)
    }
}

/// Reads a method of the service that has that wire name. What is missing after an error never gets rendered.
pub(crate) fn parse(mut item: TraitItemFn, service: &str, errors: &mut Errors) -> Method {
    let options = parse_options(&mut item, errors);
    check_options(&item.sig.ident, &options, errors);
    check_signature(&item.sig, errors);
    check_reserved(&item.sig.ident, errors);
    let arguments = parse_arguments(&mut item, errors);
    let returns = parse_returns(&item.sig.output, errors);
    if options.notify {
        check_notification(&returns, errors);
    }
    let full_name = |name: &str| format!("{service}.{name}");
    Method {
        wire_name: full_name(&method_name(&item.sig.ident, &options, errors)),
        aliases: options.aliases.iter().map(|alias| full_name(&alias.value())).collect(),
        timeout: options.timeout,
        notify: options.notify,
        at_most_once: options.at_most_once,
        no_cancel: options.no_cancel,
        dedupe: options.dedupe,
        arguments,
        returns,
        item,
    }
}

fn parse_options(item: &mut TraitItemFn, errors: &mut Errors) -> MethodOptions {
    if let Some(path) = attributes::find_conditional(&item.attrs, "rpc") {
        errors.at(
            path,
            "`rpc` cannot depend on a `cfg`: put `#[cfg]` on one method for each case",
        );
    }
    options::parse_method(&attributes::take(&mut item.attrs, "rpc"), errors)
}

/// Options that contradict each other.
fn check_options(ident: &Ident, options: &MethodOptions, errors: &mut Errors) {
    if options.at_most_once && options.dedupe.is_some() {
        let message = "`at_most_once` never runs a call again, and `dedupe` makes it safe to: keep one of them";
        errors.at(ident, message);
    }
    if options.notify && options.no_cancel {
        errors.at(ident, "nobody can cancel a notification: drop `no_cancel`");
    }
}

fn method_name(ident: &Ident, options: &MethodOptions, errors: &mut Errors) -> String {
    if let Some(name) = &options.name {
        return name.value();
    }
    let name = ident.unraw().to_string();
    if !names::is_method_name(&name) {
        let message = "wire names are ASCII: give this method one with `#[rpc(name = \"..\")]`";
        errors.at(ident, message);
    }
    name
}

fn check_reserved(ident: &Ident, errors: &mut Errors) {
    let name = ident.unraw().to_string();
    if RESERVED.contains(&name.as_str()) {
        let message = format!(
            "the generated client has a method `{name}` of its own: rename this one and keep its wire name with \
             `#[rpc(name = \"{name}\")]`"
        );
        errors.at(ident, message);
    }
}

fn check_signature(signature: &Signature, errors: &mut Errors) {
    if let Some(constness) = &signature.constness {
        errors.at(constness, "a method of a service cannot be `const`: write `async fn`");
    }
    if let Safety::Unsafe(unsafety) = &signature.safety {
        errors.at(unsafety, "a method of a service cannot be `unsafe`: write `async fn`");
    }
    if let Some(abi) = &signature.abi {
        errors.at(abi, "a method of a service cannot be `extern`: write `async fn`");
    }
    if signature.asyncness.is_none() {
        errors.at(
            signature.fn_token,
            "a method of a service is asynchronous: write `async fn`",
        );
    }
    if !signature.generics.params.is_empty() {
        let message = "a method of a service takes no type, const or lifetime parameters: write concrete, owned types";
        errors.at(&signature.generics.params, message);
    }
    if let Some(clause) = &signature.generics.where_clause {
        errors.at(clause, "a method of a service takes no where clause: remove it");
    }
    if let Some(variadic) = &signature.variadic {
        errors.at(
            variadic,
            "a method of a service takes no variadic arguments: take a `Vec`",
        );
    }
    match signature.receiver() {
        Some(receiver) => check_receiver(receiver, errors),
        None => errors.at(
            &signature.ident,
            "a method of a service needs a receiver: write `&self` first",
        ),
    }
}

fn check_receiver(receiver: &Receiver, errors: &mut Errors) {
    if !matches!(receiver.kind, ReceiverKind::Reference(_, None, None)) {
        let message = "calls run concurrently on one service: write `&self`";
        errors.at(receiver, message);
    }
}

fn parse_arguments(item: &mut TraitItemFn, errors: &mut Errors) -> Vec<Argument> {
    let has_body = item.default.is_some();
    let mut arguments = Vec::new();
    let mut has_context = false;
    for input in &mut item.sig.inputs {
        let FnArg::Typed(input) = input else { continue };
        let argument = argument::parse(input, has_body, errors);
        if matches!(argument, Some(Argument::Context)) && std::mem::replace(&mut has_context, true) {
            errors.at(&*input, "a second context is the same as the first: remove it");
        }
        arguments.extend(argument);
    }
    argument::check_order(&arguments, errors);
    arguments
}

fn parse_returns(output: &ReturnType, errors: &mut Errors) -> Returns {
    let ReturnType::Type(_, ty) = output else {
        return Returns::Plain(Box::new(parse_quote!(())));
    };
    types::check_owned(ty, "a result", errors);
    match types::last_segment(ty) {
        Some(segment) if segment.ident == "Result" => {
            if let [ok, error] = types::type_arguments(segment)[..] {
                return Returns::Fallible {
                    ok: Box::new(ok.clone()),
                    error: Box::new(error.clone()),
                    written: ty.clone(),
                };
            }
            // A `Result` of another form is an alias, unless it was mangled to `Fn` form.
            if !matches!(segment.arguments, PathArguments::Parenthesized(_)) {
                let message = "the client must know both types of a `Result`: write `Result<T, E>` in full";
                errors.at(ty, message);
            }
        }
        _ => {}
    }
    Returns::Plain(ty.clone())
}

fn check_notification(returns: &Returns, errors: &mut Errors) {
    let value = match returns {
        Returns::Plain(ty) | Returns::Fallible { ok: ty, .. } => ty,
    };
    if !types::is_unit(value) {
        let message = "nobody waits for the result of a notification: return nothing or `Result<(), E>`, or remove \
                       `notify`";
        errors.at(returns.ty(), message);
    }
}
