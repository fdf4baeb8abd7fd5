//! Which paths are served, and by whom: the one list. The router is made from it, and so is what the OpenAPI
//! document is held to. It answers nothing itself.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{get, post};

use super::{Api, list, logs, nodes, operate, service_info, tasks};

/// The two prefixes under which engines look for the API.
const PREFIXES: [&str; 2] = ["/v1", "/ga4gh/tes/v1"];

/// Something that is served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// How it is asked.
    pub method: Method,
    /// Where, as OpenAPI writes it: `/v1/tasks/{id}:cancel`.
    pub path: String,
}

/// Routes as they are declared, one by one.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Arc<Api>>,
    served: Vec<Route>,
}

/// Everything that the REST API serves.
pub fn served() -> Vec<Route> {
    Routes::all().served
}

impl Routes {
    pub(super) fn all() -> Self {
        let mut routes = Self::default()
            .get("/healthz", operate::health)
            .get("/readyz", operate::ready)
            .get("/metrics", operate::metrics)
            .get("/openapi.json", operate::openapi)
            .get("/v1/nodes", nodes::list);
        // Not nested: that would rewrite the path of every request.
        for prefix in PREFIXES {
            let at = |path: &str| format!("{prefix}{path}");
            routes = routes
                .get(&at("/service-info"), service_info::current)
                .get(&at("/tasks"), list::list)
                .post(&at("/tasks"), tasks::create)
                // Clients of TES before 1.0 ask here; a fixed segment wins over `{id}`.
                .get(&at("/tasks/service-info"), service_info::old)
                .get(&at("/tasks/{id}"), tasks::get)
                .verb(&at("/tasks/{id}"), "cancel", tasks::act)
                .get(&at("/tasks/{id}/logs"), logs::logs);
        }
        routes
    }

    pub(super) fn into_router(self) -> Router<Arc<Api>> {
        self.router
    }

    fn get<H: Handler<T, Arc<Api>>, T: 'static>(self, path: &str, handler: H) -> Self {
        let router = self.router.route(path, get(handler));
        Self { router, ..self }.with(Method::GET, path.to_owned())
    }

    fn post<H: Handler<T, Arc<Api>>, T: 'static>(self, path: &str, handler: H) -> Self {
        let router = self.router.route(path, post(handler));
        Self { router, ..self }.with(Method::POST, path.to_owned())
    }

    /// A word behind a colon. The colon is no border to the router, so the handler looks for the word itself.
    fn verb<H: Handler<T, Arc<Api>>, T: 'static>(self, path: &str, verb: &str, handler: H) -> Self {
        let router = self.router.route(path, post(handler));
        Self { router, ..self }.with(Method::POST, format!("{path}:{verb}"))
    }

    fn with(mut self, method: Method, path: String) -> Self {
        self.served.push(Route { method, path });
        self
    }
}
