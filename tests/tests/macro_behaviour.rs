//! What `#[service]` generates: a client against its server in this process.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rpc_core::{CallError, Caller, Codec, Context, FaultKind, Kind, Outcome, Payload, Service, service};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum MathError {
    DivisionByZero,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Style {
    bold: bool,
}

/// Does sums.
///
/// Slowly.
#[service(name = "calc")]
pub(crate) trait Calculator {
    /// Adds two numbers.
    async fn add(&self, a: i64, b: i64) -> i64;

    #[rpc(name = "div", alias = "divide", alias = "quotient", timeout = "2s")]
    async fn divide(&self, a: f64, #[ctx] cx: &Context, b: f64) -> Result<f64, MathError>;

    async fn header(&self, #[ctx] cx: &Context, name: String) -> Option<String>;

    async fn show(&self, value: i64, unit: Option<String>, #[serde(default)] style: Style) -> String;

    #[rpc(notify)]
    async fn count(&self, by: u32);

    #[rpc(notify)]
    async fn try_count(&self, by: u32) -> Result<(), MathError>;

    async fn sleep(&self, r#type: u64);

    /// Has a body.
    async fn double(&self, mut a: i64) -> Result<i64, MathError> {
        a = self.add(a, a).await;
        Ok(a)
    }
}

#[derive(Default)]
struct Calc {
    counted: AtomicU32,
}

impl Calculator for Calc {
    async fn add(&self, a: i64, b: i64) -> i64 {
        a + b
    }

    async fn divide(&self, a: f64, cx: &Context, b: f64) -> Result<f64, MathError> {
        assert_eq!(cx.method(), "calc.div");
        if b == 0.0 {
            return Err(MathError::DivisionByZero);
        }
        Ok(a / b)
    }

    async fn header(&self, cx: &Context, name: String) -> Option<String> {
        cx.headers().get(&name).map(str::to_owned)
    }

    async fn show(&self, value: i64, unit: Option<String>, style: Style) -> String {
        format!(
            "{value}{}{}",
            unit.unwrap_or_default(),
            if style.bold { "!" } else { "" }
        )
    }

    async fn count(&self, by: u32) {
        self.counted.fetch_add(by, Ordering::Relaxed);
    }

    async fn try_count(&self, by: u32) -> Result<(), MathError> {
        self.counted.fetch_add(by, Ordering::Relaxed);
        Ok(())
    }

    async fn sleep(&self, r#type: u64) {
        tokio::time::sleep(Duration::from_millis(r#type)).await;
    }
}

fn client() -> CalculatorClient {
    CalculatorClient::new(CalculatorServer::new(Calc::default()))
}

/// Tests end.
async fn within<T>(test: impl Future<Output = T>) -> T {
    tests::within(Duration::from_secs(10), test).await
}

/// Calls a method by the wire name of its table entry with these arguments, as a foreign caller may.
async fn call_raw(method: &str, arguments: &'static str) -> Outcome {
    let server = CalculatorServer::new(Calc::default());
    let descriptor = CalculatorClient::SERVICE.methods().iter().find(|m| m.name() == method);
    let cx = context().await;
    let arguments = Payload::new(Codec::Json, arguments.into());
    server
        .call(descriptor.expect("a method of the table"), cx, arguments)
        .await
}

/// A context, which only a call can make.
async fn context() -> Context {
    #[service]
    trait Lend {
        async fn lend(&self, #[ctx] cx: &Context);
    }
    struct Keep(std::sync::Mutex<Option<Context>>);
    impl Lend for Keep {
        async fn lend(&self, cx: &Context) {
            *self.0.lock().expect("no panic") = Some(cx.clone());
        }
    }
    let keep = Arc::new(Keep(std::sync::Mutex::default()));
    let client = LendClient::new(LendServer::from_arc(Arc::clone(&keep)));
    client.lend().await.expect("a call in process");
    let lent = keep.0.lock().expect("no panic").take();
    lent.expect("a context")
}

fn returned(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Returned(payload) => payload.decode().expect("a string"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn values_return() {
    within(async {
        assert_eq!(client().add(2, 3).await, Ok(5));
        assert_eq!(client().double(4).await, Ok(8));
        assert_eq!(client().sleep(0).await, Ok(()));
    })
    .await;
}

#[tokio::test]
async fn a_methods_own_error_returns() {
    within(async {
        assert_eq!(client().divide(1.0, 2.0).await, Ok(0.5));
        let error = client().divide(1.0, 0.0).await.unwrap_err();
        assert_eq!(error, CallError::Service(MathError::DivisionByZero));
    })
    .await;
}

#[tokio::test]
async fn clients_pass_headers_and_timeouts_on() {
    within(async {
        let client = client().with_header("lang", "en");
        assert_eq!(client.header("lang".to_owned()).await, Ok(Some("en".to_owned())));
        assert_eq!(client.header("other".to_owned()).await, Ok(None));
        let hasty = client.with_timeout(Duration::from_millis(10));
        let error = hasty.sleep(5000).await.unwrap_err();
        assert!(
            matches!(
                error,
                CallError::DeadlineExceeded {
                    method: "calc.sleep",
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(hasty.without_timeout().sleep(20).await, Ok(()));
    })
    .await;
}

#[tokio::test]
async fn notifications_run() {
    within(async {
        let calc = Arc::new(Calc::default());
        let client = CalculatorClient::new(CalculatorServer::from_arc(Arc::clone(&calc)));
        assert_eq!(client.count(2).await, Ok(()));
        assert_eq!(client.try_count(3).await, Ok(()));
        while calc.counted.load(Ordering::Relaxed) < 5 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn optional_arguments_may_be_absent() {
    within(async {
        assert_eq!(returned(&call_raw("calc.show", "[1]").await), "1");
        assert_eq!(returned(&call_raw("calc.show", r#"[1, "m"]"#).await), "1m");
        assert_eq!(
            returned(&call_raw("calc.show", r#"[1, null, {"bold": true}]"#).await),
            "1!"
        );
        let shown = client().show(1, Some("m".to_owned()), Style { bold: true }).await;
        assert_eq!(shown.as_deref(), Ok("1m!"));
    })
    .await;
}

#[tokio::test]
async fn bad_arguments_are_named() {
    within(async {
        for (arguments, message) in [
            ("[1]", "argument `b` (number 2) is missing"),
            (r#"["x", 1]"#, "argument `a`: invalid type"),
            ("[1, 2, 3]", "takes 2 arguments"),
        ] {
            let Outcome::Fault(fault) = call_raw("calc.add", arguments).await else {
                panic!("{arguments} was accepted");
            };
            assert_eq!(fault.kind, FaultKind::BadArguments);
            assert!(fault.message.contains(message), "{}", fault.message);
        }
    })
    .await;
}

#[tokio::test]
async fn a_foreign_descriptor_is_refused() {
    within(async {
        #[service]
        trait Other {
            async fn other(&self);
        }
        let server = CalculatorServer::new(Calc::default());
        let arguments = Codec::Json.encode::<[(); 0]>(&[]).unwrap();
        let method = &OtherClient::SERVICE.methods()[0];
        let outcome = server.call(method, context().await, arguments).await;
        assert!(matches!(outcome, Outcome::Fault(fault) if fault.kind == FaultKind::MethodNotFound));
    })
    .await;
}

#[test]
fn the_table_says_all() {
    let service = CalculatorClient::SERVICE;
    assert_eq!((service.name(), service.docs()), ("calc", "Does sums.\n\nSlowly."));
    let names: Vec<_> = service.methods().iter().map(|method| method.name()).collect();
    let expected = ["add", "div", "header", "show", "count", "try_count", "sleep", "double"];
    assert_eq!(names, expected.map(|name| format!("calc.{name}")));

    let [add, div, _, _, count, ..] = service.methods() else {
        panic!("too few methods")
    };
    assert_eq!(
        (add.docs(), add.returns(), add.kind()),
        ("Adds two numbers.", "i64", Kind::Call)
    );
    assert_eq!(div.aliases(), ["calc.divide", "calc.quotient"]);
    assert_eq!(div.returns(), "Result<f64, MathError>");
    assert_eq!((div.timeout(), add.timeout()), (Some(Duration::from_secs(2)), None));
    assert_eq!((count.kind(), count.returns()), (Kind::Notification, "()"));
}

#[test]
fn the_table_serializes() {
    let table = serde_json::to_value(CalculatorClient::SERVICE).unwrap();
    assert_eq!(
        table["methods"][1]["arguments"].as_array().unwrap().len(),
        2,
        "no context"
    );
    let expected = serde_json::json!([
        {"name": "value", "rust_type": "i64", "optional": false},
        {"name": "unit", "rust_type": "Option<String>", "optional": true},
        {"name": "style", "rust_type": "Style", "optional": true},
    ]);
    assert_eq!(table["methods"][3]["arguments"], expected);
    assert_eq!(table["methods"][6]["arguments"][0]["name"], "type");
}

#[test]
fn names_default_to_snake_case() {
    #[service]
    trait HTTPProxy2 {
        async fn r#move(&self);
    }
    assert_eq!(HTTPProxy2Client::SERVICE.name(), "http_proxy2");
    assert_eq!(HTTPProxy2Client::SERVICE.methods()[0].name(), "http_proxy2.move");
}

#[test]
fn servers_and_clients_show_themselves() {
    let server = CalculatorServer::new(Calc::default());
    assert_eq!(format!("{:?}", server.clone()), "CalculatorServer { .. }");
    let client = CalculatorClient::new(Caller::from(server));
    assert!(format!("{:?}", client.clone()).starts_with("CalculatorClient"));
}
