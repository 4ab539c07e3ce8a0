//! What the pages promise.

use http::Request;
use http_body_util::BodyExt as _;

use super::*;

const ALL: [Page; 11] = [
    Page::NotFound,
    Page::NoSuchHost,
    Page::Starting,
    Page::WaitingForPort { port: 5173 },
    Page::PreviewEnded,
    Page::Stopped,
    Page::Failed,
    Page::BadGateway,
    Page::GatewayTimeout,
    Page::Overloaded,
    Page::Unavailable,
];

fn parts(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri("/some/path");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn brand() -> Branding {
    Branding {
        name: Some("Clinic<IQ> & \"friends\"".into()),
        logo_url: Some("https://cdn.cliniciq.test/logo.svg?a=1&b=2".into()),
        primary_color: Some("#0f766e".into()),
        background_color: None,
        support_url: Some("https://help.cliniciq.test/".into()),
        support_email: None,
    }
}

async fn body(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn every_page_is_complete_branded_and_names_nobody_else() {
    for page in ALL {
        for branding in [Branding::default(), brand()] {
            let response = render(page, &branding, &parts(&[("accept", "text/html")]));
            let headers = format!("{:?}", response.headers()).to_ascii_lowercase();
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers()["x-robots-tag"], "noindex");
            let html = body(response).await;
            let all = format!("{headers}{html}").to_ascii_lowercase();
            assert!(!all.contains("miosa"), "{page:?}");
            assert!(html.contains("<h1>") && html.ends_with("</html>\n"), "{page:?}");
            assert!(!html.contains("Clinic<IQ>"), "escaped");
            assert_eq!(html.contains("Clinic&lt;IQ&gt;"), branding.name.is_some());
            assert!(!html.contains("<script"), "{page:?}");
        }
    }
}

#[tokio::test]
async fn the_policy_allows_the_page_and_nothing_else() {
    let response = render(Page::NotFound, &brand(), &parts(&[]));
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let html = body(response).await;
    let style = html.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(style));
    assert_eq!(
        policy,
        format!(
            "default-src 'none'; style-src 'sha256-{hash}'; img-src https://cdn.cliniciq.test; \
             base-uri 'none'; form-action 'none'"
        )
    );
}

#[test]
fn a_page_that_waits_reloads_itself() {
    for page in ALL {
        let waits = matches!(page, Page::Starting | Page::WaitingForPort { .. });
        let words = page.words();
        let (html, _) = html(&words, &Branding::default());
        assert_eq!(html.contains("http-equiv=\"refresh\""), waits, "{page:?}");
        let response = render(page, &Branding::default(), &parts(&[]));
        if waits {
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["retry-after"], "2");
        }
    }
}

#[test]
fn who_asks_for_a_document_gets_one() {
    for (headers, wanted) in [
        (&[][..], Form::Html),
        (&[("accept", "*/*")], Form::Html),
        (&[("accept", "text/html,application/xhtml+xml,*/*;q=0.8")], Form::Html),
        (&[("accept", "text/html"), ("sec-fetch-mode", "navigate")], Form::Html),
        (&[("accept", "*/*"), ("sec-fetch-mode", "cors")], Form::Plain),
        (&[("accept", "image/avif,image/webp"), ("sec-fetch-mode", "no-cors")], Form::Plain),
        (&[("accept", "application/json")], Form::Json),
        (&[("accept", "application/json, text/plain, */*")], Form::Json),
        (&[("accept", "application/json"), ("sec-fetch-mode", "cors")], Form::Json),
        (&[("accept", "text/plain")], Form::Plain),
    ] {
        assert_eq!(form(&parts(headers).headers), wanted, "{headers:?}");
    }
}

#[tokio::test]
async fn programs_get_a_code() {
    let response = render(Page::Failed, &brand(), &parts(&[("accept", "application/json")]));
    assert_eq!(response.headers()["content-type"], "application/json");
    let json: serde_json::Value = serde_json::from_str(&body(response).await).unwrap();
    assert_eq!(json["error"]["code"], "FAILED");
}

#[test]
fn a_logo_that_is_lost_leaves_the_name() {
    let (page, _) = html(&Page::Stopped.words(), &brand());
    let header = page.split_once("<header>").unwrap().1.split_once("</header>").unwrap().0;
    // A picture without a text of its own is not drawn as broken.
    assert!(
        header.contains("<img src=\"https://cdn.cliniciq.test/logo.svg?a=1&amp;b=2\" alt=\"\"")
    );
    assert!(
        header.ends_with("<span>Clinic&lt;IQ&gt; &amp; &quot;friends&quot;</span>"),
        "{header}"
    );
}

/// Writes every page to the folder in `PAGES_DIR`, to be looked at in a browser.
#[test]
fn pages_can_be_looked_at() {
    let Ok(dir) = std::env::var("PAGES_DIR") else {
        eprintln!("skipped: PAGES_DIR is not set");
        return;
    };
    let plain = Branding { name: Some("ClinicIQ".into()), logo_url: None, ..brand() };
    let colored = |primary: &str| Branding { primary_color: Some(primary.into()), ..plain.clone() };
    let long =
        "Universitätsklinikum Schleswig-Holstein Donaudampfschifffahrtsgesellschaft_und_Söhne";
    let icon = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E\
                %3Ccircle cx='4' cy='4' r='4' fill='teal'/%3E%3C/svg%3E";
    let brands = [
        ("neutral", Branding::default()),
        ("brand", plain.clone()),
        ("navy", colored("#0f172a")),
        ("yellow", colored("#ffe600")),
        ("ground", Branding { background_color: Some("#1e1b4b".into()), ..plain.clone() }),
        ("lost", brand()),
        ("icon", Branding { logo_url: Some(icon.into()), ..plain.clone() }),
        ("long", Branding { name: Some(long.into()), ..brand() }),
    ];
    for (name, branding) in brands {
        for page in ALL {
            let (html, policy) = html(&page.words(), &branding);
            let code = page.status().1.to_ascii_lowercase();
            fs_err::write(format!("{dir}/{name}-{code}.html"), html).unwrap();
            fs_err::write(format!("{dir}/{name}-{code}.csp"), policy).unwrap();
        }
    }
}
