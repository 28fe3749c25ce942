# One service account for each kind of work, with the rights that it needs: on single buckets, and of the project's
# roles the narrowest that Google has for the work. No account may change rights, and none has a key.
locals {
  accounts = {
    worker  = "Beam's workers on Dataflow"
    trainer = "The trainer, on a VM of Google Cloud Batch"
    server  = "The front end and TF Serving, on Cloud Run"
    build   = "Cloud Build: tests, images, deployment"
  }

  # account/role in the project
  project_roles = toset([
    "worker/roles/dataflow.worker",
    "trainer/roles/batch.agentReporter",
    "trainer/roles/logging.logWriter",
    "build/roles/logging.logWriter",
    "build/roles/run.developer",
  ])

  # account/bucket/role: objectUser reads, writes and deletes; objectViewer reads
  bucket_roles = toset([
    "worker/data/roles/storage.objectUser",
    "worker/temp/roles/storage.objectUser",
    "trainer/data/roles/storage.objectViewer",
    "trainer/runs/roles/storage.objectUser",
    "trainer/models/roles/storage.objectUser",
    "server/models/roles/storage.objectViewer",
    "build/temp/roles/storage.objectViewer",
  ])

  # account/role on the images
  image_roles = toset([
    "worker/roles/artifactregistry.reader",
    "trainer/roles/artifactregistry.reader",
    "build/roles/artifactregistry.writer",
  ])
}

resource "google_service_account" "account" {
  for_each = local.accounts

  account_id   = "cadenza-${each.key}"
  display_name = each.value
  depends_on   = [google_project_service.api]
}

resource "google_project_iam_member" "account" {
  for_each = local.project_roles

  project = var.project
  role    = join("/", slice(split("/", each.value), 1, 3))
  member  = google_service_account.account[split("/", each.value)[0]].member
}

resource "google_storage_bucket_iam_member" "account" {
  for_each = local.bucket_roles

  bucket = google_storage_bucket.bucket[split("/", each.value)[1]].name
  role   = join("/", slice(split("/", each.value), 2, 4))
  member = google_service_account.account[split("/", each.value)[0]].member
}

resource "google_artifact_registry_repository_iam_member" "account" {
  for_each = local.image_roles

  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = join("/", slice(split("/", each.value), 1, 3))
  member     = google_service_account.account[split("/", each.value)[0]].member
}

# To deploy a revision, Cloud Build needs the right to run it as the server's account; it has that right for no other one.
resource "google_service_account_iam_member" "build_as_server" {
  service_account_id = google_service_account.account["server"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.account["build"].member
}
