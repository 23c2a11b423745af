# An exported folder over HTTP, without torch:
#   docker build --file docker/serve.Dockerfile --tag lit_bert-serve .
#   docker run --publish 127.0.0.1:8000:8000 --volume "$PWD/my-classifier:/model:ro" lit_bert-serve
# `make image` runs these steps in a bare virtual environment, tries what comes out, and prints its size.
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY docker/serve.txt constraints.txt /lock/
RUN pip install --no-cache-dir --no-compile --no-deps --constraint /lock/constraints.txt --requirement /lock/serve.txt
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-compile --no-deps /wheels/lit_bert-*.whl
ENV OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=30s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "lit_bert", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--port", "8000"]
