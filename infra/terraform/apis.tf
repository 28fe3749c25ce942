# The APIs that the project uses. They stay enabled after a `terraform destroy`, as other programs may use them too.
resource "google_project_service" "api" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "batch.googleapis.com",
    "billingbudgets.googleapis.com",
    "cloudbuild.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "run.googleapis.com",
    "storage.googleapis.com",
  ])

  service            = each.value
  disable_on_destroy = false
}
